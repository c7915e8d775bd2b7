"""The process that ``run_isolated`` starts, here or on a device. It imports only what its job needs."""

from __future__ import annotations

from runtime.worker.child import serve

JOBS = {
    "start": "device_bench.metrics.jobs:start_file",
    "time": "device_bench.metrics.jobs:time_many",
    "latency": "device_bench.metrics.jobs:time_latency",
    "peaks": "device_bench.metrics.jobs:time_peaks",
    "metric": "device_bench.metrics.jobs:measure_metric",
    "duel": "device_bench.gate.duel:run_launch",
    "bench": "device_bench.targets.cpu:run_bench",
}


def main() -> int:
    """Runs the jobs that are requested on stdin."""
    return serve(JOBS)


if __name__ == "__main__":
    raise SystemExit(main())
