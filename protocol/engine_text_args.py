"""Which engine arguments are text, so that a number for one is a mistake. Pure.

YAML reads a commit id such as `0123` or `12e+5` as a number. The names are those of vLLM 0.32.
"""

from __future__ import annotations

from protocol.engine_args import flag_of

TEXT = frozenset(
    """
    all2all_backend allowed_local_media_path allowed_media_domains anthropic_disabled_thinking_effort
    attention_backend chat_template chat_template_content_format code_revision cohere_format
    collect_detailed_traces config_format convert cpu_offload_params dcp_comm_backend
    disable_access_log_for_endpoints distributed_executor_backend download_dir dtype
    expert_placement_strategy fingerprint_mode fingerprint_value gdn_prefill_backend generation_config
    hf_config_path ignore_patterns io_processor_plugin jit_monitor_mode kda_decode_backend
    kda_prefill_backend kv_cache_dtype kv_cache_dtype_skip_layers kv_offloading_backend linear_backend
    load_format log_config_file log_level logits_processors logprobs_mode lora_dtype lora_target_modules
    mamba_backend mamba_cache_dtype mamba_cache_mode mamba_ssm_cache_dtype mamba_ssu_algorithm
    mm_encoder_attn_backend mm_encoder_attn_dtype mm_encoder_fp8_scale_path
    mm_encoder_fp8_scale_save_path mm_encoder_tp_mode mm_hasher_algorithm mm_processor_cache_type
    mm_processor_device mm_tensor_ipc model_impl moe_backend numa_bind_cpus offload_backend
    offload_params otlp_traces_endpoint per_request_spec_decode_metrics performance_mode
    prefix_caching_hash_algo quantization reasoning_parser reasoning_parser_plugin response_role
    runner safetensors_load_strategy scheduler_cls scheduling_policy show_hidden_metrics_for_version
    sleep_preserve_parameter_names sparse_indexer_topk_backend spec_method spec_model tokenizer
    tokenizer_mode tokenizer_revision tool_call_parser tool_parser_plugin tool_server
    tool_strict_level uvicorn_log_level video_pruning_method worker_cls worker_extension_cls
    """.split()  # noqa: SIM905  # a list would take a line for each name
)
"""Arguments of text, or of lists of text. A test compares them with vLLM's parser."""


def is_text(key: str) -> bool:
    """Whether a key of the arguments takes text, or a list of text."""
    return "." not in key and flag_of(key) in TEXT
