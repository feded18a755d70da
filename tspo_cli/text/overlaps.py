"""Find a text in another where it overlaps itself, such as "so so so", in one pass.

All comparisons are those of Python's strings, which are much faster than letter by letter.

Places of a text that are less than half its length apart are one period of it apart, and so are all
between them (Fine and Wilf 1965). So the places stand in few ranges of equal steps, however many
they are.
"""

from __future__ import annotations

from collections.abc import Iterator


def common_length(one: str, start: int, other: str, place: int) -> int:
    """How many characters from `start` of `one` are those from `place` of `other`."""
    longest = min(len(one) - start, len(other) - place)
    done, step, grows = 0, 32, True
    while step:
        end = done + step
        if end <= longest and one[start + done : start + end] == other[place + done : place + end]:
            done = end
        else:
            grows = False
        step = step * 2 if grows else step // 2
    return done


def occurrences(part: str, text: str) -> Iterator[range]:
    """The places of `part` in `text`, overlapping ones too, as ranges from left to right."""
    place = text.find(part)
    while part and place >= 0:
        following = text.find(part, place + 1, place + len(part) // 2 + len(part))
        if following < 0:
            yield range(place, place + 1)
            place = text.find(part, place + 1)
            continue
        period = following - place
        end = following + common_length(text, place, text, following)  # of what repeats itself
        places = range(place, end - len(part) + 1, period)
        yield places
        place = text.find(part, places[-1] + 1)


def overlap(beginning: str, text: str) -> int:
    """The length of the longest beginning of `beginning` that ends `text`."""
    most = min(len(beginning), len(text))
    size = 1 << most.bit_length() >> 1
    while size:
        # Lengths from `size` to less than twice that: each begins at a place of this head.
        end = text[-min(most, 2 * size - 1) :]
        for places in occurrences(beginning[:size], end):
            place = _first_that_ends(beginning, end, places)
            if place is not None:
                return len(end) - place
        size //= 2
    return 0


def _first_that_ends(beginning: str, end: str, places: range) -> int | None:
    """The first place from which `end` is a beginning of `beginning`."""
    if beginning.startswith(end[places[0] :]):
        return places[0]
    if len(places) == 1:
        return None
    # From every place on, both repeat themselves for a while: up to the same place, or to the end.
    period = places.step
    repeats = period + common_length(beginning, 0, beginning, period)
    stop = places[0] + period + common_length(end, places[0], end, places[0] + period)
    place = stop - repeats
    if stop == len(end):
        place = max(places[0], places[0] - (places[0] - place) // period * period)
    if place <= places[-1] and place >= places[0] and beginning.startswith(end[place:]):
        return place
    return None
