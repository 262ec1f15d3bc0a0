"""Where providers are, and how they are spoken to: what LiteLLM's names of providers stand for."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Provider", "known", "provider_of"]


class Provider(NamedTuple):
    """A provider that speaks a dialect of the transports.

    Attributes:
        base_url: Where it is; None if each user has a place of their own.
        key: The environment variable that holds the key by custom; None without one.
        dialect: What it speaks.
        auth: How the key is sent.
    """

    base_url: str | None
    key: str | None = None
    dialect: Literal["openai", "anthropic"] = "openai"
    auth: Literal["usual", "api-key"] = "usual"


# The addresses stand in the documentation of each provider, under "OpenAI compatibility" or the like.
_PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "azure": Provider(None, "AZURE_API_KEY", auth="api-key"),
    "anthropic": Provider("https://api.anthropic.com", "ANTHROPIC_API_KEY", dialect="anthropic"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "custom_openai": Provider(None),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hosted_vllm": Provider(None, "HOSTED_VLLM_API_KEY"),
    "litellm_proxy": Provider(None, "LITELLM_PROXY_API_KEY"),
    "lm_studio": Provider(None, "LM_STUDIO_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Provider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": Provider("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": Provider("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "vllm": Provider(None),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
}
# A name without a provider in front is one of these, as LiteLLM's own map of models has it.
_BARE = {
    **dict.fromkeys(("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-"), "openai"),
    "claude-": "anthropic",
}


def provider_of(model: str, named: str | None = None) -> tuple[str | None, str]:
    """Return whose model it is.

    Args:
        model: The model as LiteLLM writes it, such as ``azure/gpt-4o-eu``.
        named: The provider, if it is named apart (``custom_llm_provider``).

    Returns:
        The name of the provider, None if that is not known; and the model as the provider knows it.
    """
    first, found, rest = model.partition("/")
    if named is not None:
        return named, rest if found and first == named else model
    if found and (first in _PROVIDERS or not model.startswith("http")):
        return first, rest
    return next((provider for start, provider in _BARE.items() if model.startswith(start)), None), model


def known(provider: str | None) -> Provider | None:
    """Return where a provider is.

    Args:
        provider: Its name.

    Returns:
        The place; None if it does not speak a dialect of the transports.
    """
    return None if provider is None else _PROVIDERS.get(provider)
