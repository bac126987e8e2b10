# MinIO without root. In its own image, /data belongs to root, so the store is in another folder.
FROM minio/minio:RELEASE.2025-09-07T16-13-09Z
RUN mkdir -p /store && chown 1000:1000 /store
USER 1000:1000
ENV MC_CONFIG_DIR=/tmp/.mc
CMD ["server", "/store", "--address", ":9000"]
