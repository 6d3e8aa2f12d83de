"""One engine core of vLLM for several front-end processes.

It does what `run_multi_api_server` of vLLM 0.32 does, with two differences. The replica's process
is a front end itself, and a front end that ends is replaced. vLLM's engine core knows its clients
from its start on, and greets each of them once. So it is started with clients to spare.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Mapping
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import structlog

from dataplane.engine.front_ends.front_ends import RESTARTS_MAX, FrontEnds
from dataplane.engine.front_ends.seat import Opening
from dataplane.engine.vllm import serve_command
from dataplane.engine.vllm.front_end import Place, open_front_end
from dataplane.engine.vllm.shared_load import Totals, load_between, totals

_log = structlog.get_logger("dataplane.engine.vllm")


class SharedCore:
    """The processes of an engine, and the places of its clients. The first is this process's."""

    def __init__(self, model: str, parsed: Any, config: Any, count: int) -> None:
        """
        Args:
            model: Resource name of the model.
            parsed: The arguments of `vllm serve`.
            config: The engine's `VllmConfig`, for this core alone.
            count: Front ends, the one of this process included; at least 2.
        """
        self._model = model
        self._parsed = parsed
        self._config = config
        self._count = count
        self._clients = count + RESTARTS_MAX
        self._pickled_config = b""
        self._listeners: Any = None
        self._shared: Mapping[str, Any] = {}
        self._client: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, front_ends: FrontEnds) -> Any:
        """Start the engine, its front ends meanwhile, and return this process's `AsyncLLM`.

        It blocks the event loop until the engine is up.
        """
        from vllm.transformers_utils.config import maybe_register_config_serialize_by_value
        from vllm.v1.engine.utils import bind_engine_zmq_listeners, launch_core_engines
        from vllm.v1.executor import Executor

        config = self._config
        config.parallel_config._api_process_count = self._count
        _share_metrics()
        maybe_register_config_serialize_by_value()
        # Before the start: vLLM notes in it what the engine core says.
        self._pickled_config = bytes(ForkingPickler.dumps(config))
        self._shared = self._counters()
        self._listeners = bind_engine_zmq_listeners(config, self._clients)
        engine_args = serve_command.engine_args_of(self._parsed)
        log_stats = not engine_args.disable_log_stats
        try:
            with launch_core_engines(
                config, Executor.get_class(config), log_stats, self._listeners.addresses
            ) as launched:
                if launched.tensor_queue is not None:
                    self._shared = {**self._shared, "tensor_queue": launched.tensor_queue}
                seats = [_Seat(self, index) for index in range(1, self._clients)]
                front_ends.start(seats, self._count - 1)
            self._client = serve_command.new_client(
                engine_args,
                config,
                client_addresses=self.addresses(0),
                client_count=self._clients,
                client_index=0,
            )
        except BaseException:
            self.close()
            raise
        # As if the client had started the processes: it ends and watches them.
        resources = self._client.engine_core.resources
        resources.engine_manager, resources.coordinator = launched.engine_manager, launched.coordinator
        self._client.engine_core.start_engine_core_monitor()
        await self._client.reset_mm_cache()  # of the data that the processor was warmed up with
        if log_stats:
            self._tasks.append(asyncio.create_task(_log_load(self._model), name="load"))
        return self._client

    def _counters(self) -> dict[str, Any]:
        """What vLLM counts queued requests with, over all front ends, if they are bounded."""
        from vllm.v1.engine.admission_control import SharedAdmissionStats

        if getattr(self._parsed, "max_num_queued_reqs", None) is None:
            return {}
        numbers = SharedAdmissionStats.num_counters(self._clients)
        return {"mp_admission_counters": multiprocessing.get_context("spawn").RawArray("q", numbers)}

    def place(self, index: int) -> Place:
        """What the front end with this client needs."""
        return Place(
            model=self._model,
            parsed=self._parsed,
            config=self._pickled_config,
            addresses=self.addresses(index),
            client_count=self._clients,
            client_index=index,
        )

    def addresses(self, index: int) -> dict[str, Any]:
        """vLLM's `client_addresses` of one client."""
        to_core, from_core = self._listeners.inputs[index], self._listeners.outputs[index]
        return {
            "input_address": to_core.address,
            "output_address": from_core.address,
            "input_listener": to_core.socket,
            "output_listener": from_core.socket,
            **self._shared,
        }

    def handed_over(self, index: int) -> None:
        """Close what only the process of that client has to hold."""
        self._listeners.inputs[index].close()
        self._listeners.outputs[index].close()

    def abandon(self, index: int) -> None:
        """End the requests of a client that has ended, from now on."""
        counters = self._shared.get("mp_admission_counters")
        if counters is not None:
            counters[index * len(counters) // self._clients] = 0
        address = self._listeners.outputs[index].address
        self._tasks.append(asyncio.create_task(self._abort_all_from(address), name="abandoned requests"))

    async def _abort_all_from(self, address: str) -> None:
        """Abort the requests whose outputs come to this address. Nobody else reads them.

        The engine core keeps what it cannot send. So this goes on as long as the engine runs: a
        request that waits has its first output late.
        """
        import zmq
        import zmq.asyncio
        from vllm.utils.network_utils import make_zmq_socket
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.engine.core import EngineCoreProc
        from vllm.v1.serial_utils import MsgpackDecoder

        decoder = MsgpackDecoder(EngineCoreOutputs)
        with zmq.asyncio.Context() as context, make_zmq_socket(context, address, zmq.PULL) as outputs_of_core:
            while True:
                frames = await outputs_of_core.recv_multipart(copy=False)
                if len(frames) == 1 and frames[0].buffer == EngineCoreProc.ENGINE_CORE_DEAD:
                    return
                outputs = decoder.decode(frames).outputs
                running = [output.request_id for output in outputs if output.finish_reason is None]
                if running:
                    await self._client.engine_core.abort_requests_async(running)

    def close(self) -> None:
        """Give up the sockets. Called when the engine has ended."""
        for task in self._tasks:
            task.cancel()
        if self._listeners is not None:
            self._listeners.cleanup()


class _Seat:
    """The place of one client."""

    def __init__(self, core: SharedCore, index: int) -> None:
        self._core = core
        self._index = index

    @property
    def opening(self) -> Opening:
        return partial(open_front_end, self._core.place(self._index))

    def taken(self) -> None:
        self._core.handed_over(self._index)

    async def left(self) -> None:
        self._core.abandon(self._index)


def _share_metrics() -> None:
    """Have the processes of this replica add up vLLM's metrics, in files of a directory."""
    from prometheus_client import values
    from vllm.v1.metrics.prometheus import setup_multiprocess_prometheus

    setup_multiprocess_prometheus()
    # It has been imported without the directory, so it would count in memory.
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]


async def _log_load(model: str) -> None:
    """Log the load of all front ends at vLLM's interval, if there was any."""
    from vllm import envs
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    registry, log = get_prometheus_registry(), _log.bind(model=model)

    def read() -> Totals:
        return totals((sample.name, sample.value) for metric in registry.collect() for sample in metric.samples)

    before, begun = await asyncio.to_thread(read), time.monotonic()
    while True:
        await asyncio.sleep(envs.VLLM_LOG_STATS_INTERVAL)
        after, now = await asyncio.to_thread(read), time.monotonic()
        load = load_between(before, after, now - begun)
        if load is not None:
            log.info("engine_load", **load)
        before, begun = after, now
