"""`broadsheet chat`: ask a model over the data plane's OpenAI API."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from unicodedata import category

import httpx
import typer
from rich.progress import Progress

from broadsheet.cli.openai_http import AnswerError, http_client
from broadsheet.cli.report import EXIT_FAILED, EXIT_UNREACHABLE, print_failure
from broadsheet.cli.session import Output, Session
from broadsheet.cli.view.progress import spinner
from broadsheet.cli.view.results import show

DEFAULT_URL = "http://127.0.0.1:8000"


def chat(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Served name of a model or adapter.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question. Without: a conversation, or stdin.")
    ] = None,
    *,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Data plane. Default: $BROADSHEET_URL, else {DEFAULT_URL}.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="API key. Default: $BROADSHEET_API_KEY, else none.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer at most.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0: always the likeliest token.")] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show the answer while it is made.")] = True,
) -> None:
    """Ask a model or adapter, and show its answer.

    With a PROMPT, or with text on stdin: one answer. Else a conversation: Ctrl-C stops an answer,
    Ctrl-D ends it all. The first request to a model at zero starts it; that may take minutes.
    """
    address = (url or os.environ.get("BROADSHEET_URL") or DEFAULT_URL).rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise typer.BadParameter(f"got {address!r}; expected a URL such as {DEFAULT_URL}", param_hint="--url")
    settings = {"max_tokens": max_tokens, "temperature": temperature}
    chat = _Chat(
        session=session,
        url=address,
        api_key=api_key or os.environ.get("BROADSHEET_API_KEY") or "",
        # One document per answer is what `--output json` promises.
        stream=stream and session.output is Output.TABLE,
        body={"model": model} | {key: value for key, value in settings.items() if value is not None},
        messages=[{"role": "system", "content": system}] if system else [],
    )
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt is not None and not prompt.strip():
        raise typer.BadParameter("it is empty", param_hint="PROMPT")
    try:
        if prompt is None:
            chat.converse()
        else:
            chat.ask(prompt)
    except AnswerError as error:
        print_failure(session.stderr, str(error))
        raise typer.Exit(EXIT_FAILED) from error
    except httpx.TransportError as error:
        if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            print_failure(session.stderr, f"the answer of {address} broke off")
            session.say(f"  cause: {error}")
            raise typer.Exit(EXIT_FAILED) from error
        print_failure(session.stderr, f"cannot reach the data plane at {address}")
        session.say(f"  cause: {error}\n  hint: is it running? Start it: broadsheet dataplane; elsewhere: --url URL")
        raise typer.Exit(EXIT_UNREACHABLE) from error


class _Chat:
    def __init__(
        self,
        *,
        session: Session,
        url: str,
        api_key: str,
        stream: bool,
        body: Mapping[str, object],
        messages: list[dict[str, str]],
    ) -> None:
        self._session = session
        self._url = url
        self._api_key = api_key
        self._stream = stream
        self._body = body
        self._messages = messages

    def converse(self) -> None:
        """Ask and answer until the end of input. A failed answer does not end the conversation."""
        while True:
            try:
                question = self._session.stderr.input("[bold]> [/]")
            except EOFError:
                self._session.say("")
                return
            if not question.strip():
                continue
            try:
                self.ask(question)
            except KeyboardInterrupt:
                self._session.say("(stopped)")
            except AnswerError as error:
                self._session.say(f"error: {error}")

    def ask(self, question: str) -> None:
        """Send the conversation and a question; show and keep the answer.

        Raises:
            AnswerError: The data plane answered with an error.
            httpx.TransportError: The data plane cannot be reached.
        """
        asked = {"role": "user", "content": question}
        request = {**self._body, "messages": [*self._messages, asked], "stream": self._stream}
        with http_client(self._url, self._api_key) as client:
            answer = self._streamed(client, request) if self._stream else self._whole(client, request)
        self._messages += [asked, {"role": "assistant", "content": answer}]

    def _whole(self, client: httpx.Client, request: Mapping[str, object]) -> str:
        with self._spinner():
            response = client.post("/v1/chat/completions", json=request)
        body = AnswerError.unless_success(response)
        answer = _text(body.get("choices"), "message")
        if self._session.output is Output.TABLE:
            self._write(answer + "\n")
        else:
            show(self._session, body, answer)
        return answer

    def _streamed(self, client: httpx.Client, request: Mapping[str, object]) -> str:
        parts: list[str] = []
        spinner = self._spinner()
        with spinner, client.stream("POST", "/v1/chat/completions", json=request) as response:
            if response.is_error:
                response.read()
                AnswerError.unless_success(response)
            for event in _events(response.iter_lines()):
                part = _text(event.get("choices"), "delta")
                if part:
                    spinner.stop()
                    self._write(part)
                    parts.append(part)
        self._write("\n")
        return "".join(parts)

    def _write(self, text: str) -> None:
        # Not through rich, which would interpret brackets. A terminal gets no control characters.
        if self._session.stdout.is_terminal:
            text = "".join(character for character in text if category(character) != "Cc" or character in "\n\t")
        self._session.stdout.file.write(text)
        self._session.stdout.file.flush()

    def _spinner(self) -> Progress:
        return spinner(self._session.stderr, f"waiting for {self._body['model']}")


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events.

    Raises:
        AnswerError: An event is an error, or the stream is malformed or incomplete.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        content = line.removeprefix("data:").strip()
        if content == "[DONE]":
            return
        try:
            event = json.loads(content)
        except ValueError as error:
            raise AnswerError(f"the answer holds something that is not JSON: {content[:80]}") from error
        if not isinstance(event, dict):
            raise AnswerError(f"the answer holds something that is no JSON object: {content[:80]}")
        if "error" in event:
            raise AnswerError.of_body(event)
        yield event
    raise AnswerError("the answer broke off before its end")


def _text(choices: object, key: str) -> str:
    """The text of the first choice: of its `message` or, in a stream, of its `delta`."""
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get(key) if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
