"""The section of the base model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from smt_ray.config.fields import Section, execution, semantic


class ModelConfig(Section):
    """The base model: a folder, a hub name, or the built-in one."""

    path: str | None = semantic(None)
    """A local folder, a URI of an object store, or a name on the Hugging Face hub."""
    builtin: Literal["tiny"] | None = semantic(None)
    """The model that ships with the package and needs no network."""
    revision: str | None = semantic(None)
    """The branch, tag or commit on the hub; it has no effect on folders."""
    gguf_file: str | None = semantic(None)
    """The name of the file with GGUF weights in ``path``; the weights are dequantised on load."""
    dtype: Literal["float32", "bfloat16"] = semantic("float32")
    """The type in which weights are loaded and training computes."""
    quantization: Literal["none", "nf4", "fp4", "int8"] = semantic("none")
    """The form in which the frozen weights of linears are stored, by bitsandbytes: in 4 bits (nf4,
    fp4) or 8 bits (int8). Products are computed in ``dtype``. It needs method smt, lora or dora.
    Adapters are merged into the model in full precision."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = execution("auto")
    """The attention kernel of padded batches and of evaluation, by the name that transformers gives
    it. auto is sdpa, or eager for models without it. Packed rows use a kernel of their own, which
    is built on torch's sdpa."""
    trust_remote_code: bool = execution(False)
    """Whether code that comes with the model may run."""
    config_overrides: dict[str, Any] = semantic({})
    """Values that replace those of the model's config.json, such as output_router_logits: false."""
    architecture: dict[str, Any] | None = semantic(None)
    """A transformers config (``model_type: llama``, ...) without weights, to plan and count."""

    def at(self, place: str) -> ModelConfig:
        """The section for the same files at another path or URI."""
        return self.model_copy(update={"path": place})

    def replaced_by(self, place: str) -> ModelConfig:
        """The section for other weights of the same architecture, in a folder or at a URI."""
        elsewhere = dict.fromkeys(("builtin", "revision", "gguf_file"))
        return self.model_copy(update={**elsewhere, "path": place})

    @property
    def in_full_precision(self) -> ModelConfig:
        """The section of the same model without quantisation."""
        return self.model_copy(update={"quantization": "none"})

    @property
    def attention(self) -> str | None:
        """The attention kernel to ask transformers for; None for the model's own choice."""
        return None if self.attn_implementation == "auto" else self.attn_implementation

    @property
    def name(self) -> str:
        """The name of the model in tables and trackers."""
        return self.path or self.builtin or str((self.architecture or {})["model_type"])

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        given = [name for name in ("path", "builtin", "architecture") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of path, builtin, architecture must be set; got {given or 'none'}"
            )
        if self.gguf_file and not self.path:
            raise ValueError("gguf_file needs path, the folder or hub name that holds it")
        if self.architecture and not isinstance(self.architecture.get("model_type"), str):
            raise ValueError("architecture needs model_type, such as llama")
        return self
