"""Stands in for the pipeline, without a model or torch: every Python with this folder on PYTHONPATH has it.

A seed chooses what a run does: 13 and 14 fail, 92 to 95 wait for other jobs of their sweep, 96 to 99
leave processes, from 100 on it takes seed / 100 seconds.
"""

import os
import signal
import subprocess
import sys
import time
import types


def run(config, folder, overrides=(), until=None):
    from spot.utils.errors import UserError

    print("ran", until or "all", config.arm, "seed", config.seed, os.environ.get("LOCAL_RANK"))
    print("gpus", os.environ.get("CUDA_VISIBLE_DEVICES"))
    began = time.monotonic()
    (folder / "began").touch()
    if config.seed == 13:
        raise ValueError("thirteen is unlucky")
    if config.seed == 14:
        raise UserError("the file is empty: give another.")
    if config.seed in (97, 98, 99):
        if config.seed == 97:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=config.seed == 98)
        print("child", child.pid, flush=True)
        time.sleep(600)
    if config.seed in (92, 93, 94, 95):  # however busy the machine is, they run at the same time
        while len(list(folder.parent.glob("*/began"))) < (2 if config.seed < 94 else 3):
            time.sleep(0.02)
            assert time.monotonic() < began + 100, "the others do not begin"
    if config.seed == 96:
        print("child", subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    if config.seed >= 100:
        time.sleep(config.seed / 100)
    print("from", began, "to", time.monotonic())
    return None if until else folder / "report.html"


def pretrain(config, folder):
    print("pretrained", config.model.name)


def build(folder, *_):
    from spot.data import run_record

    print("reporting on", [f.name for f in sorted(folder.glob("*/")) if run_record.is_finished(f)])
    return folder / "report.html"


def _module(name, **functions):
    module = types.ModuleType(name)
    vars(module).update(functions)
    return module


MODULES = {
    "spot.pipeline.way": _module("spot.pipeline.way", run=run, pretrain=pretrain),
    "spot.report": _module("spot.report", build=build),
}
if __name__ == "sitecustomize":
    sys.modules.update(MODULES)
