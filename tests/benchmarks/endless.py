"""A step of benchmarks.gpu that does not end by itself."""

import time

print("started", flush=True)
while True:
    time.sleep(60)
