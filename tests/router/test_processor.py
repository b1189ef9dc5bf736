from pathlib import Path

from tierserve.router.processor import has


def test_flags_are_whole_words() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    longest = max(flags, key=len)
    assert has(longest)
    assert not has(longest[:-1]) or longest[:-1] in flags
    assert not has("no_such_flag")
