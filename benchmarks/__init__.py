"""Timings: of the zoo beside what people would use instead (`throughput`), and of starting up (`startup`)."""
