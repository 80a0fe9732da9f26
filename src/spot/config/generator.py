"""The group `generator`: what generates responses, in elicitation and, unless `evaluator` is another, in evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spot.utils.errors import UserError, in_range, one_of
from spot.utils.http import check_key_name, check_url

GENERATORS = ("transformers", "vllm", "openai")
OURS = ("--host", "--port", "--served-model-name", "--api-key")  # what is said to `vllm serve`


@dataclass
class GeneratorConfig:
    """Sampling as in the paper and its scripts (T 0.7, top-p 0.8, top-k 20), and what samples."""

    kind: str = (
        "transformers"  # transformers (this process) | vllm (started) | openai (runs already)
    )
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    max_new_tokens: int = 32768
    batch: int = 256  # transformers: requests answered at once
    concurrency: int = 256  # requests in flight at each server, or copy behind one
    timeout: float = 7200.0  # seconds for one response
    patience: float = 600.0  # seconds without any server before the run stops
    # vllm
    executable: str = "vllm"
    servers: int | None = None  # null: as many as the GPUs allow; one on a CPU
    tensor_parallel: int = 1  # GPUs that share a copy of the model
    data_parallel: int = 1  # copies of the model behind one server
    gpus: list[int] | None = None  # null: all that this machine has (or CUDA_VISIBLE_DEVICES names)
    port: int | None = None  # of the first server; null: free ones
    dtype: str = "auto"
    batch_invariant: bool = False  # an answer does not depend on what is computed beside it
    arguments: list[str] = field(default_factory=list)  # more of `vllm serve`
    start_seconds: float = 900.0  # until a server must be healthy
    # openai
    base_urls: list[str] = field(default_factory=list)
    model: str | None = None  # its name at the servers; null: the only one they have
    extra: dict[str, Any] = field(default_factory=dict)  # more of a request's body; null: leave out
    key: str | None = None  # environment variable with the servers' key; null: they want none

    def __post_init__(self) -> None:
        one_of("generator.kind", self.kind, GENERATORS)
        in_range("generator.temperature", self.temperature, 0)
        in_range("generator.top_p", self.top_p, 0, 1, open_low=True)
        in_range("generator.top_k", self.top_k, 0)
        counts = (
            "max_new_tokens",
            "batch",
            "concurrency",
            "servers",
            "tensor_parallel",
            "data_parallel",
        )
        for name in counts:
            in_range(f"generator.{name}", getattr(self, name), 1)
        in_range("generator.port", self.port, 1, 65535)
        for name in ("timeout", "patience", "start_seconds"):
            in_range(f"generator.{name}", getattr(self, name), 0, open_low=True)
        one_of("generator.dtype", self.dtype, ("auto", "bfloat16", "float16", "float32"))
        if self.key is not None:
            check_key_name("generator.key", self.key)
        for url in self.base_urls:
            check_url("generator.base_urls", url)
        if len({url.rstrip("/") for url in self.base_urls}) < len(self.base_urls):
            raise UserError("generator.base_urls names a server twice: name each once.")
        if self.kind == "openai" and not self.base_urls:
            raise UserError(
                "generator.base_urls is empty: give the servers' addresses, "
                "generator.base_urls=[http://localhost:8000/v1]."
            )
        if self.kind == "vllm" and not self.executable.strip():
            raise UserError("generator.executable is empty: give the path of vllm.")
        theirs = [name for name in ("base_urls", "model", "extra", "key") if getattr(self, name)]
        if self.kind == "vllm" and theirs:
            raise UserError(
                f"generator.{theirs[0]} is for servers that run already: leave it out, or choose generator=openai."
            )
        for argument in self.arguments:
            if argument.partition("=")[0].replace("_", "-") in OURS:
                raise UserError(
                    f"generator.arguments: {argument} is said to the server already: leave it out, or set "
                    "generator.port."
                )
