# MinIO that is not root: its own image keeps /data for root, so the store lies elsewhere.
FROM minio/minio:RELEASE.2025-09-07T16-13-09Z
RUN mkdir -p /store && chown 1000:1000 /store
USER 1000:1000
ENV MC_CONFIG_DIR=/tmp/.mc
CMD ["server", "/store", "--address", ":9000"]
