"""Numbers as people read them. Nothing else in this room turns a number into text for a reader."""
# ruff: noqa: RUF001, RUF002 - the minus, multiplication and dash signs are meant for readers

from __future__ import annotations

from collections.abc import Sequence

from .interval import Interval

MISSING = "–"
_MINUS = "−"
_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def count(value: int | None) -> str:
    """Returns a count with three significant digits and a decimal prefix.

    >>> count(1_234_567), count(980), count(None)
    ('1.23 M', '980', '–')
    """
    if value is None:
        return MISSING
    return _prefixed(value, "")


def size(value: int | None) -> str:
    """Returns bytes with a decimal prefix (1 kB = 1000 bytes).

    >>> size(4_512_345), size(512)
    ('4.51 MB', '512 B')
    """
    if value is None:
        return MISSING
    return _prefixed(value, "B")


def percent(share: float | None) -> str:
    """Returns a share of 0..1 as a percentage with one decimal.

    >>> percent(0.9834), percent(0.9999), percent(1.0)
    ('98.3 %', '> 99.9 %', '100.0 %')
    """
    if share is None:
        return MISSING
    text = f"{100 * share:.1f}"
    # one wrong in ten thousand is not none, nor is one right
    if text == "100.0" and share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if text == "0.0" and share > 0 else f"{text} %"


def change(before: float | None, after: float | None) -> str:
    """Returns by how much ``after`` differs from ``before``, in percent of ``before``, signed.

    >>> change(200, 50), change(100, 104), change(100, 100)
    ('−75 %', '+4 %', '±0 %')
    """
    if before is None or after is None or before == 0:
        return MISSING
    return _signed(100 * (after - before) / before, 0) + " %"


def cosine(value: float | None) -> str:
    """Returns a cosine with three decimals; one that is not 1 is not rounded to it.

    >>> cosine(0.98761), cosine(0.99997), cosine(1.0)
    ('0.988', '> 0.999', '1.000')
    """
    if value is None:
        return MISSING
    text = f"{value:.3f}"
    return "> 0.999" if text == "1.000" and value < 1 else text


def points(before: float | None, after: float | None) -> str:
    """Returns the difference of two shares in percentage points, signed.

    >>> points(0.983, 0.979)
    '−0.4 points'
    """
    if before is None or after is None:
        return MISSING
    return _signed(100 * (after - before), 1) + " points"


def seconds(value: float | None) -> str:
    """Returns a duration in the unit that suits it, with three significant digits.

    >>> seconds(0.001912), seconds(2.5), seconds(4e-5)
    ('1.91 ms', '2.50 s', '40.0 µs')
    """
    if value is None:
        return MISSING
    scale, unit = _time_unit(value)
    return f"{_three(value / scale)} {unit}"


def seconds_interval(interval: Interval | None) -> str:
    """Returns a duration with its confidence interval, in one unit.

    >>> seconds_interval(Interval(0.00191, 0.00188, 0.00195))
    '1.91 ms [1.88, 1.95]'
    """
    if interval is None:
        return MISSING
    scale, unit = _time_unit(interval.value)
    value, low, high = (_three(number / scale) for number in (interval.value, interval.low, interval.high))
    return f"{value} {unit} [{low}, {high}]"


def times(value: float | None) -> str:
    """Returns a ratio.

    >>> times(1.3333), times(None)
    ('1.33×', '–')
    """
    return MISSING if value is None else f"{_three(value)}×"


def times_interval(interval: Interval | None) -> str:
    """Returns a ratio with its confidence interval.

    >>> times_interval(Interval(2.312, 2.25, 2.378))
    '2.31× [2.25, 2.38]'
    """
    if interval is None:
        return MISSING
    value, low, high = (_three(number) for number in (interval.value, interval.low, interval.high))
    return f"{value}× [{low}, {high}]"


def flop(value: int | None) -> str:
    """Returns a number of operations with a decimal prefix.

    >>> flop(9_200_000_000), flop(None)
    ('9.20 GFLOP', '–')
    """
    return MISSING if value is None else _prefixed(value, "FLOP")


def gflops(value: float | None) -> str:
    """Returns 10^9 operations a second with three significant digits.

    >>> gflops(41.52), gflops(1234.6)
    ('41.5 GFLOP/s', '1,235 GFLOP/s')
    """
    return MISSING if value is None else f"{_grouped(value)} GFLOP/s"


def rate(value: float | None) -> str:
    """Returns images a second with three significant digits and a thousands separator.

    >>> rate(4653.2), rate(0.512)
    ('4,653 images/s', '0.51 images/s')
    """
    return MISSING if value is None else f"{_grouped(value)} images/s"


def joules(value: float | None) -> str:
    """Returns an energy in the unit that suits it.

    >>> joules(0.0123), joules(0.0), joules(2.5e-5)
    ('12.3 mJ', '0 J', '25.0 µJ')
    """
    return MISSING if value is None else _small(value, "J")


def watts(value: float | None) -> str:
    """Returns a power in the unit that suits it.

    >>> watts(3.214), watts(0.42)
    ('3.21 W', '420 mW')
    """
    return MISSING if value is None else _small(value, "W")


def grams(value: float | None) -> str:
    """Returns a mass in the unit that suits it.

    >>> grams(1.5e-6), grams(12.0)
    ('1.50 µg', '12.0 g')
    """
    return MISSING if value is None else _small(value, "g")


def arrangement(batch: int, streams: int, threads: int) -> str:
    """Returns how images are fed to a file: their batch, the copies side by side, and the threads of each.

    >>> arrangement(8, 1, 2), arrangement(1, 2, 1)
    ('batch 8, 1 stream, 2 threads', 'batch 1, 2 streams, 1 thread')
    """
    return f"batch {batch}, {plural(streams, 'stream')}, {plural(threads, 'thread')}"


def plural(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> plural(1, "image"), plural(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Returns names as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def decibels(value: float | None) -> str:
    """Returns a level in dB with one decimal.

    >>> decibels(43.21)
    '43.2 dB'
    """
    return MISSING if value is None else f"{value:.1f} dB"


def error(value: float | None) -> str:
    """Returns a small error with two significant digits.

    >>> error(1.3e-6), error(0.0312), error(0.0)
    ('1.3e-06', '0.031', '0')
    """
    return MISSING if value is None else f"{value:.2g}"


def plain(value: float | None) -> str:
    """Returns a number with two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Returns a number with its sign and four decimals.

    >>> signed(0.12344), signed(-0.5), signed(0.0)
    ('+0.1234', '−0.5000', '±0.0000')
    """
    return MISSING if value is None else _signed(value, 4)


def step(value: int) -> str:
    """Returns a change of a count with its sign.

    >>> step(3), step(-1200)
    ('+3', '−1,200')
    """
    return f"{'+' if value > 0 else _MINUS if value < 0 else '±'}{abs(value):,}"


def hertz(values: tuple[float, ...] | None) -> str:
    """Returns one clock, or the range of several, in GHz.

    >>> hertz((1.5e9, 1.5e9)), hertz((6e8, 2.4e9))
    ('1.50 GHz', '0.60 to 2.40 GHz')
    """
    if not values:
        return MISSING
    low, high = (f"{clock / 1e9:.2f}" for clock in (min(values), max(values)))
    return f"{low} GHz" if low == high else f"{low} to {high} GHz"


def celsius(value: float | None) -> str:
    """Returns a temperature with one decimal."""
    return MISSING if value is None else f"{value:.1f} °C"


def whole(value: int | None) -> str:
    """Returns an integer with a thousands separator.

    >>> whole(10000)
    '10,000'
    """
    return MISSING if value is None else f"{value:,}"


def digest(sha256: str | None) -> str:
    """Returns the first twelve digits of a hash, enough to recognise it by."""
    return MISSING if sha256 is None else sha256[:12]


def _prefixed(value: float, unit: str) -> str:
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.6 k would print as 1000 k
        if value >= 0.9995 * scale:
            return f"{_three(value / scale)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def _three(value: float) -> str:
    """Returns a positive number with three significant digits, never in powers of ten."""
    for limit, decimals in ((9.995, 2), (99.95, 1)):
        if value < limit:
            return f"{value:.{decimals}f}"
    return f"{value:.0f}"


def _grouped(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else _three(value)


def _small(value: float, unit: str) -> str:
    if value == 0:
        return f"0 {unit}"
    scale, prefix = next(((s, p) for s, p in _SMALL if abs(value) >= 0.9995 * s), _SMALL[-1])
    return f"{_three(value / scale)} {prefix}{unit}"


def _signed(value: float, decimals: int) -> str:
    text = f"{abs(value):.{decimals}f}"
    if not float(text):
        return f"±{text}"
    return f"{'+' if value > 0 else _MINUS}{text}"


def _time_unit(value: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in _TIME_UNITS if value >= 0.9995 * scale), _TIME_UNITS[-1])
