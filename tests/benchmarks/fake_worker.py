"""A fake worker for the benchmarks; its argument names the class that it serves."""

import os
import sys
import time

from benchmarks import workers


class Fake:
    parameters = 66_362  # sam_alexnet_tiny
    devices = 1
    losses = {"test": 3.0, "train": 4.0, "train_after_update": 3.5}  # noqa: RUF012

    def describe(self):
        print("output of a library")
        return {"fake": "1.0"}

    def measure_peak(self, dtype):
        return {"gflops_per_sec": 100.0, "gbytes_per_sec": 10.0}

    def reference(self, model, num_classes, batch_size, path):
        return {"parameters": self.parameters, "losses": self.losses}

    def compare(self, model, num_classes, path):
        return {"parameters": self.parameters, "losses": self.losses}

    def build(self, model, num_classes, mode, dtype, images, seed):
        built = {"parameters": self.parameters, "compile_time": 1.5}
        return built | {"gbytes": 0.05, "devices": self.devices}

    def demand(self):
        return {"gflops": 2.0, "gbytes": 0.05}

    def build_epoch(self, **arguments):
        return {"images": 64, "classes": 2, "seconds": 1.5}

    def run_epoch(self):
        return {"seconds": 100 * self.run(1), "loss": 0.5}

    def run(self, steps):
        return 0.01 * steps

    def peak_memory(self):
        return workers.peak_process_memory()


class Described(Fake):
    devices = 2

    def describe(self):
        versions = {"jax": "0.10.2"}
        return {"backend": "gpu", "devices": ["NVIDIA H200"] * 2, "cores": 16, "versions": versions}


class Torch(Fake):
    def describe(self):
        return {"torch": "2.13.0+cu128"}


class NotAvailable(Fake):
    def compare(self, **arguments):
        raise workers.Unsupported("model not available in this library")


class Slower(Fake):
    def run(self, steps):
        return 0.03 * steps


class DifferentNet(Fake):
    parameters = 66_363


class DifferentLoss(Fake):
    losses = {**Fake.losses, "train": 4.001}  # noqa: RUF012


class NotInstalled(Fake):
    def __init__(self):
        raise ModuleNotFoundError("gone", name="torchvision.transforms")


class Failing(Fake):
    def build(self, **arguments):
        raise RuntimeError("no kernel\nfor this")


class OutOfMemory(Fake):
    def build(self, **arguments):
        raise MemoryError

    def build_epoch(self, **arguments):
        raise MemoryError


class Dying(Fake):
    def build(self, **arguments):
        print("last line")
        os._exit(3)


class Sleeping(Fake):
    def build(self, **arguments):
        time.sleep(60)


class Ticking(Fake):
    """Counts the ticks of a background thread."""

    def run(self, steps):
        import threading

        self.ticks = 0
        threading.Thread(target=self._tick, daemon=True).start()
        return 0.01

    def _tick(self):
        while True:
            time.sleep(0.01)
            self.ticks += 1

    def read(self):
        return self.ticks


if __name__ == "__main__":
    workers.serve(globals()[sys.argv[1]]())
