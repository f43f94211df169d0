"""The volume while the body of `with crash_volume.record()` runs."""

import contextlib
import gc
import json
import os
import shlex
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from harness.blocklog import BlockLog
from harness.blocklog.format import JSON
from harness.errors import HarnessError, Misuse
from harness.machine import mounts
from harness.machine.image import Image
from harness.plugin.failure import door
from harness.settings import Settings
from harness.trial import recorder
from harness.trial.commands import resolve
from harness.trial.recording import Recording
from harness.volume import RecordedVolume, VolumeSpec, make_base, mounted_plain

Setup = Callable[[str], object]


class LiveVolume:
    """A mounted volume whose every write is recorded. Valid inside the with-block alone."""

    def __init__(self, settings: Settings, base: Image, spec: VolumeSpec, directory: str) -> None:
        self._settings = settings
        self._directory = directory
        self._base = base
        self._spec = spec
        self._over = False
        self._log: BlockLog | None = None
        self._cwd = os.getcwd()
        self._recorded = RecordedVolume(spec, base, log_max=settings.log_max)
        self._recorded.__enter__()
        self._device = mounts.device_at(self.path)

    @property
    def path(self) -> str:
        """The volume's root, absolute; the same path when it is judged."""
        return self._recorded.path

    @property
    def promise_path(self) -> str:
        """A file: each line that any process writes to it is a promise, in its exact place in the log."""
        return self._recorded.promise_path

    @property
    def env(self) -> dict[str, str]:
        """For a subprocess of yours: HARNESS_VOLUME and HARNESS_PROMISE. Add it to os.environ."""
        return {"HARNESS_VOLUME": self.path, "HARNESS_PROMISE": self.promise_path}

    @door
    def promise(self, value: Any) -> None:
        """From here on the program promises `value`. The check finds it in state.promises, as JSON brings it back.

        Raises Misuse for what JSON cannot say (bytes, NaN, objects), BoundExceeded, EngineLost.
        """
        self._must_be_live()
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            remedy = "promise None, numbers, text, lists or dicts: for bytes, value.hex()"
            raise Misuse(f"{value!r} cannot be promised: {error}", remedy) from None
        self._recorded.mark(JSON + text.encode())

    @door
    def run(self, command: str | Sequence[str], *, timeout: float | None = None) -> bytes:
        """Run a program in the volume's root to its end, and return what it printed (at most the last 64 KiB).

        A string goes to /bin/sh, and relative names of files beside the test module are found; a sequence is run as
        it stands. It has the environment of this process and `env`. `timeout` in seconds; default: the setting.
        Raises WorkloadFailed when it fails, hangs, or leaves processes running.
        """
        self._must_be_live()
        text = resolve(command, self._directory) if isinstance(command, str) else shlex.join(command)
        seconds = self._settings.timeout if timeout is None else timeout
        ran = recorder.run(text, seconds, self.env)
        recorder.expect_success("program", text, ran)
        return ran.shell.output

    def _must_be_live(self) -> None:
        if self._over:
            raise Misuse("this volume's recording is over", "use it inside the with-block of crash_volume.record()")

    def finished(self) -> Recording:
        """End the recording in order. Files that are still open are let go of, and the recording's notes say so."""
        self._leave()
        self._recorded.linger(self._settings.linger)
        try:
            self._log = self._recorded.finish()
        finally:
            self._let_go()
        if self._recorded.error:
            raise self._recorded.error
        recorder.expect_room("test", self._recorded, "give it a larger one: @pytest.mark.crash_volume(size='256M')")
        return recorder.recording_of(self._recorded, self._spec, self._base)

    def abandon(self) -> None:
        """Take the volume away, whatever the test left on it. The recording is worth nothing. Idempotent."""
        if not self._over:
            self._leave()
            self._let_go()

    def free(self) -> None:
        """Give the log's memory back. The recording cannot be judged any more."""
        self.abandon()
        with contextlib.suppress(BufferError):  # someone still reads it: then it goes with them
            if self._log:
                self._log.release()
            self._recorded.engine.log.close()

    def _leave(self) -> None:
        """A test may well have gone into the volume; that alone must not keep it busy."""
        self._over = True
        with contextlib.suppress(OSError):
            if os.stat(".").st_dev == self._device:
                os.chdir(self._cwd)

    def _let_go(self) -> None:
        gc.collect()
        mounts.release_descriptors(self._device)
        self._recorded.close()


class Recorder:
    """What `crash_volume.record()` returns: a context manager around one recording."""

    def __init__(self, start: Callable[[], LiveVolume], keep: Callable[[LiveVolume | None], None]) -> None:
        self._start = start
        self._keep = keep
        self._live: LiveVolume | None = None

    @door
    def __enter__(self) -> LiveVolume:
        self._live = self._start()
        return self._live

    @door
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        live = self._live
        if live is None:
            return
        if error is None:
            self._keep(live)
            return
        self._keep(None)
        try:
            live.abandon()
        except (HarnessError, OSError) as further:
            error.add_note(f"and the volume could not be taken away in order: {further}")


def prepared(settings: Settings, setup: Setup | None) -> tuple[VolumeSpec, Image]:
    """A new volume with the work of `setup` on it, all durable."""
    mounts.enter_private_mounts()
    spec = VolumeSpec.of(settings)
    base = make_base(spec)
    if setup:
        cwd = os.getcwd()
        with mounted_plain(base, spec) as path:
            try:
                setup(path)
            finally:
                os.chdir(cwd)
    return spec, base
