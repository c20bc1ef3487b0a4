import os

# Tests run side by side, a process for each core: torch must not take all cores in each of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
