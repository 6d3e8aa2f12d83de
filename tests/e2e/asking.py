"""A client that asks without a pause, and so notices any interruption."""

from __future__ import annotations

import threading

import openai

from tests.e2e.real_model import ask
from tests.e2e.stack import Stack


class Asking:
    """Asks a model again and again in a thread, and notes each answer that is wrong."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._stack = stack
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            try:
                ask(self._stack, self._model)
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
            else:
                self.answered += 1
