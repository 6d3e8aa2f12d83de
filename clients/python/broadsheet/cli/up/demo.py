"""`broadsheet up --demo`: registers a real model and adapter, and asks both.

It uses only what users have: the programs of the planes, `broadsheet.Client`, and HTTP.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import httpx
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from broadsheet.cli.openai_http import AnswerError, http_client
from broadsheet.cli.report import EXIT_FAILED, print_error, print_failure
from broadsheet.cli.up.local import NotReady, check_ports, give_home, local_planes, prepare_data_dir, report, start
from broadsheet.cli.up.supervisor import ChildEnded, Interrupted, Supervisor
from broadsheet.cli.view.progress import say, spinner
from broadsheet.client import Client
from broadsheet.demo import ADAPTER_DIR
from broadsheet.demo.prepare_model import ModelPreparationError, default_cache_dir, prepare_model
from broadsheet.errors import BroadsheetError
from broadsheet.types import ResourceState

MODEL_ID = "smollm2"
ADAPTER_ID = "pirate"
QUESTIONS = ("What is the capital of France?", "How many legs does a spider have?")
ANSWER_TOKENS_MAX = 48
SERVING_TIMEOUT_S = 120.0
"""Time for the snapshot to reach the data plane. No engine starts in it."""

ENVIRONMENT: Mapping[str, str] = {
    # GiB of KV cache: enough for one small model. vLLM's default on the CPU is 4.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The model is a local directory, so no hub is needed.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Defaults for the planes; the user's environment comes first."""


class DemoFailed(Exception):
    """The demo found something other than it shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the data plane."""

    text: str
    revision: str
    """The header `x-broadsheet-revision`: the catalog revision that routed the request."""


@dataclass(slots=True)
class Steps:
    """How long each step took."""

    seconds: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block. A block that fails is not counted."""
        started_s = time.monotonic()
        yield
        self.seconds.append((name, time.monotonic() - started_s))

    def table(self) -> Table:
        """The steps, and their sum."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("STEP")
        table.add_column("SECONDS", justify="right")
        for name, seconds in self.seconds:
            table.add_row(name, f"{seconds:.1f}")
        table.add_row("all of it", f"{sum(seconds for _, seconds in self.seconds):.1f}", style="bold")
        return table


def run_demo(screen: Console, *, listen: str, http: str, data_dir: Path | None, stop_after: bool) -> int:
    """Run the demo. Returns the exit status: 0 if every question was answered.

    Args:
        screen: Where to show everything.
        listen: Address of the control plane.
        http: Address of the data plane's OpenAI API.
        data_dir: For registry, snapshots and logs. None: a temporary folder, kept only after a
            failure.
        stop_after: End after the answers. Otherwise the planes stay up until Ctrl-C.

    Raises:
        StartError: A port is taken.
    """
    folder = prepare_data_dir(data_dir) if data_dir is not None else Path(tempfile.mkdtemp(prefix="broadsheet-demo-"))
    status = EXIT_FAILED
    try:
        give_home(folder, screen)
        status = _run(screen, listen=listen, http=http, folder=folder, stop_after=stop_after)
    finally:
        if data_dir is None and (status != EXIT_FAILED or not any(folder.iterdir())):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists() and status != 0:
            say(screen, f"data and logs are in {folder}", style="dim")
    return status


def _run(screen: Console, *, listen: str, http: str, folder: Path, stop_after: bool) -> int:
    answered = False
    planes = local_planes(listen=listen, http=http, data_dir=folder)
    try:
        check_ports(planes)
        with Supervisor(say=lambda line: say(screen, line)) as supervisor:
            steps = Steps()
            with _preparation(screen) as preparation:
                with steps.step("start both planes"):
                    start(supervisor, planes, screen, environment=dict(ENVIRONMENT) | dict(os.environ))
                with steps.step("wait for the model, made meanwhile (cached after the first time)"):
                    weights = preparation.wait(supervisor)
            with Client(listen) as client:
                _register(screen, steps, client, weights)
                _show_idle(screen, client, f"http://{http}")
                _ask_all(screen, steps, supervisor, client, f"http://{http}")
            answered = True
            screen.print()
            screen.print(steps.table())
            if not stop_after:
                _say_what_next(screen, http)
                while True:
                    supervisor.sleep(3600.0)
    except Interrupted as signal_:
        return 0 if answered else signal_.exit_code
    except (ChildEnded, NotReady) as error:
        report(screen, error)
        return EXIT_FAILED
    except BroadsheetError as error:
        print_error(screen, error, listen)
        return EXIT_FAILED
    except (AnswerError, DemoFailed, ModelPreparationError, httpx.TransportError) as error:
        print_failure(screen, str(error))
        return EXIT_FAILED
    return 0


class _Preparation:
    """Prepares the model in a thread, while the planes start."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._stop = threading.Event()
        self._line = ""
        self._weights: Path | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="demo model")
        self._thread.start()

    def wait(self, supervisor: Supervisor) -> Path:
        """The model's directory.

        Raises:
            ModelPreparationError: It could not be made.
            ChildEnded: A plane ended during the wait.
        """
        with spinner(self._screen, "preparing the model") as shown:
            while self._thread.is_alive():
                supervisor.sleep(0.1)
                shown.update(shown.task_ids[0], description=self._line)
        if self._weights is None:
            raise self._error or ModelPreparationError("the preparation of the model ended without one")
        return self._weights

    def end(self) -> None:
        """Stop the preparation if it is still running."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._weights = prepare_model(default_cache_dir(), self._show, self._stop)
        except Exception as error:  # raised again by wait()
            self._error = error

    def _show(self, line: str) -> None:
        self._line = line
        if not self._screen.is_terminal:
            say(self._screen, line)


@contextmanager
def _preparation(screen: Console) -> Iterator[_Preparation]:
    preparation = _Preparation(screen)
    try:
        yield preparation
    finally:
        preparation.end()


def _register(screen: Console, steps: Steps, client: Client, weights: Path) -> None:
    with steps.step("register model and adapter over gRPC"):
        client.register_model(
            MODEL_ID,
            spec={
                "source": {"uri": f"file://{weights}"},
                "engine": {
                    "kind": "VLLM",
                    # In bfloat16 so small a model answers differently on CPUs with and without AMX.
                    "args": {"enforce_eager": True, "max_model_len": 2048, "dtype": "float32"},
                },
                "resources": {"accelerators": 1 if _runs_on_gpu() else 0},
                "scaling": {"min_replicas": 0},
                "lora": {"max_adapters": 2, "max_rank": 8},
            },
            card={
                "display_name": "SmolLM2 135M Instruct",
                "description": "A small instruction-tuned language model.",
                "owned_by": "HuggingFaceTB",
                "license": "Apache-2.0",
                "context_window": 2048,
                "modalities": ["text"],
                "capabilities": ["chat"],
            },
        )
        response = client.register_adapter(
            MODEL_ID,
            ADAPTER_ID,
            source=ADAPTER_DIR,
            card={"display_name": "Pirate", "description": "Answers every question like a pirate."},
        )
    with steps.step("snapshot active on the data plane"), spinner(screen, "waiting for the data plane"):
        client.wait_until_serving(MODEL_ID, timeout_s=SERVING_TIMEOUT_S)
        client.wait_until_serving(f"{MODEL_ID}/{ADAPTER_ID}", timeout_s=SERVING_TIMEOUT_S)
    screen.print(f"catalog revision {response.catalog_revision} is active on the data plane", highlight=False)


def _show_idle(screen: Console, client: Client, url: str) -> None:
    """Show that no engine was started, and that both names are listed nevertheless.

    Raises:
        DemoFailed: An engine was started, or a name is missing.
    """
    model, adapter = client.get_model(MODEL_ID), client.get_adapter(f"{MODEL_ID}/{ADAPTER_ID}")
    (status,) = (item.status for item in model.statuses)
    state = ResourceState.Name(status.state).removeprefix("RESOURCE_STATE_")
    if status.state != ResourceState.RESOURCE_STATE_IDLE or status.ready_replicas or status.application:
        raise DemoFailed(f"{model.name} should be IDLE before the first request; it is {state}: {status.message}")
    with http_client(url) as http:
        listed = {str(item["id"]) for item in AnswerError.unless_success(http.get("/v1/models"))["data"]}
    missing = {model.served_name, adapter.served_name} - listed
    if missing:
        raise DemoFailed(f"/v1/models does not list {', '.join(sorted(missing))}")
    screen.print(
        f"{model.name} is {state}: no replica runs. /v1/models lists {', '.join(sorted(listed))}", highlight=False
    )


def _ask_all(screen: Console, steps: Steps, supervisor: Supervisor, client: Client, url: str) -> None:
    model, adapter = client.get_model(MODEL_ID), client.get_adapter(f"{MODEL_ID}/{ADAPTER_ID}")
    answers: dict[tuple[str, str], str] = {}
    for served_name, what in ((model.served_name, "base model"), (adapter.served_name, "adapter")):
        for index, question in enumerate(QUESTIONS):
            note = "first" if index else "first, from zero" if served_name == model.served_name else "first, loads it"
            note = f"answer {index + 1}" if index else note
            with steps.step(f"ask the {what} ({note})"):
                answer = _ask(screen, supervisor, client, url, served_name, question)
            answers[served_name, question] = answer.text
            screen.print(f"\n[bold]{served_name}[/] · x-broadsheet-revision: {answer.revision}", highlight=False)
            screen.print(Padding(Text(f"Q  {question}"), (0, 0, 0, 2), expand=False))
            screen.print(Padding(Text(f"A  {answer.text}"), (0, 0, 0, 2), expand=False))
    for question in QUESTIONS:
        if answers[model.served_name, question] == answers[adapter.served_name, question]:
            raise DemoFailed(f"the adapter answers {question!r} exactly as its base does")


def _ask(screen: Console, supervisor: Supervisor, client: Client, url: str, served_name: str, question: str) -> Answer:
    """Ask in a thread. Meanwhile show the time and the state of the model, and watch the planes.

    Raises:
        AnswerError: The data plane answered with an error, or with an empty text.
        httpx.TransportError: The data plane did not answer.
        ChildEnded: A plane ended.
    """
    outcome: list[Answer | Exception] = []

    def post() -> None:
        try:
            outcome.append(_post(url, served_name, question))
        except Exception as error:  # raised again by the caller
            outcome.append(error)

    # A daemon: after a plane ends or the user interrupts, the answer is not waited for.
    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    with spinner(screen, f"asking {served_name}") as shown:
        while thread.is_alive():
            supervisor.sleep(0.2)
            if screen.is_terminal:
                shown.update(shown.task_ids[0], description=f"asking {served_name} · {_state(client)}")
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result


def _post(url: str, served_name: str, question: str) -> Answer:
    body = {
        "model": served_name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": ANSWER_TOKENS_MAX,
        "temperature": 0,
    }
    with http_client(url) as http:
        response = http.post("/v1/chat/completions", json=body)
    answer = AnswerError.unless_success(response)
    text = str(answer["choices"][0]["message"]["content"] or "").strip()
    if not text:
        raise AnswerError(f"{served_name} answered {question!r} with nothing")
    return Answer(text=text, revision=response.headers.get("x-broadsheet-revision", "?"))


def _state(client: Client) -> str:
    try:
        statuses = client.get_model(MODEL_ID, timeout_s=1.0).statuses
    except BroadsheetError:
        return "the control plane does not answer"
    return ", ".join(ResourceState.Name(item.status.state).removeprefix("RESOURCE_STATE_") for item in statuses)


def _runs_on_gpu() -> bool:
    """Whether vLLM for GPUs is installed. vLLM for CPUs is a distribution of another name."""
    try:
        metadata.distribution("vllm")
    except metadata.PackageNotFoundError:
        return False
    return True


def _say_what_next(screen: Console, http: str) -> None:
    screen.print(
        f"""
Both planes stay up until Ctrl-C. Try next:

  curl http://{http}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{MODEL_ID}:{ADAPTER_ID}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="http://{http}/v1", api_key="unused")
  print(client.chat.completions.create(
      model="{MODEL_ID}", messages=[{{"role": "user", "content": "Tell me about the moon."}}], max_tokens=64
  ).choices[0].message.content)

  broadsheet chat {MODEL_ID} "What is two plus two?"
  broadsheet fleet get local
""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
