# GNU General Public License v3.0+ (see COPYING)
"""Windows: which there are, when they open and close, and what daylight saving does to them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.window import (
    WEEKDAYS,
    Calendar,
    parse_calendar,
    parse_window_id,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

SYDNEY: dict[str, Any] = {
    "zone": "Australia/Sydney",
    "calendar": [
        {"name": "evenings", "opens": "18:00", "minutes": 180, "weekdays": ["tue", "wed", "thu"]},
        {"name": "night", "opens": "02:30", "minutes": 60, "weekdays": ["sun"]},
        {"name": "weekend", "opens": "20:00", "minutes": 2880, "weekdays": ["sat"]},
        {"name": "BAS day", "opens": "08:00", "minutes": 600, "date": "2026-10-28"},
    ],
    "blackouts": [{"first": "2026-12-24", "last": "2026-12-27", "reason": "bank holidays"}],
}


def calendar(**changes: Any) -> Calendar:
    return parse_calendar({**SYDNEY, **changes})


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window_id", "name", "opens", "closes"),
    [
        # Sydney is UTC+11 in summer, UTC+10 in winter
        ("202611251800", "evenings", "2026-11-25 07:00", "2026-11-25 10:00"),
        ("202607011800", "evenings", "2026-07-01 08:00", "2026-07-01 11:00"),
        ("202610280800", "BAS day", "2026-10-27 21:00", "2026-10-28 07:00"),
        # clocks go back at 03:00 on 2026-04-05: 02:30 comes twice, and the first one counts
        ("202604050230", "night", "2026-04-04 15:30", "2026-04-04 16:30"),
        # a window across a change lasts its minutes, whatever clocks on the wall show
        ("202604042000", "weekend", "2026-04-04 09:00", "2026-04-06 09:00"),
        ("202610032000", "weekend", "2026-10-03 10:00", "2026-10-05 10:00"),
    ],
)
def test_windows_of_the_calendar(window_id: str, name: str, opens: str, closes: str) -> None:
    window = calendar().window(window_id)
    assert (window.id, window.name) == (window_id, name)
    assert (window.opens_at, window.closes_at) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("window_id", "reason", "words"),
    [
        ("202611231800", "window.not_in_calendar", "no entry"),  # a Monday
        ("202611251801", "window.not_in_calendar", "no entry"),
        ("202710280800", "window.not_in_calendar", "no entry"),  # the date of another year
        ("202612241800", "window.blackout", "bank holidays"),  # the first day of the blackout
        ("202612262000", "window.blackout", "2026-12-24 to 2026-12-27"),
        # clocks go forward at 02:00 on 2026-10-04: there is no 02:30
        ("202610040230", "window.no_such_time", "put forward"),
        ("2026112518", "window.malformed", "not 12 digits"),
        ("202611311800", "window.malformed", "no date"),
        ("000101011800", "window.malformed", "this century"),
        ("999912311800", "window.malformed", "this century"),
    ],
)
def test_what_is_no_window(window_id: str, reason: str, words: str) -> None:
    with pytest.raises(ApgmsError, match=words) as caught:
        calendar().window(window_id)
    assert caught.value.reason == reason


def test_a_window_ends_where_a_blackout_begins() -> None:
    blackouts = [{"first": "2026-11-22", "last": "2026-11-22", "reason": "maintenance"}]
    window = calendar(blackouts=blackouts).window("202611212000")
    assert window.closes_at == utc("2026-11-21 13:00")  # midnight in Sydney
    following = calendar(blackouts=[{**blackouts[0], "first": "2026-11-24", "last": "2026-11-30"}])
    assert following.window("202611212000").closes_at == utc("2026-11-23 09:00")


def test_a_blackout_begins_at_the_first_moment_of_its_day() -> None:
    # clocks in Beirut go forward at midnight, so 2026-03-29 begins at 01:00
    member = {
        "zone": "Asia/Beirut",
        "calendar": [{"name": "late", "opens": "22:00", "minutes": 600, "date": "2026-03-28"}],
        "blackouts": [{"first": "2026-03-29", "last": "2026-03-29", "reason": "change of clocks"}],
    }
    assert parse_calendar(member).window("202603282200").closes_at == utc("2026-03-28 22:00")


def test_upcoming_windows_are_those_not_over() -> None:
    now = utc("2026-12-23 09:59")
    found = [window.id for window in calendar().upcoming(now)][:4]
    assert found == ["202612231800", "202612291800", "202612301800", "202612311800"]
    after = [window.id for window in calendar().upcoming(utc("2026-12-23 10:00"))][:1]
    assert after == ["202612291800"]


def test_the_longest_window_is_upcoming_until_it_ends() -> None:
    entry = {"name": "week", "opens": "00:00", "minutes": 10080, "date": "2026-11-02"}
    week = calendar(calendar=[entry], zone="UTC")
    assert [w.id for w in week.upcoming(utc("2026-11-08 23:59"))] == ["202611020000"]
    assert list(week.upcoming(utc("2026-11-09 00:00"))) == []


def test_a_calendar_without_entries_has_no_windows() -> None:
    assert list(calendar(calendar=[]).upcoming(utc("2026-11-25 00:00"))) == []


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2032, 12, 31)),
    st.integers(1, 1440),
    st.sampled_from(["Australia/Sydney", "Australia/Lord_Howe", "America/New_York", "UTC"]),
)
def test_a_window_opens_at_its_name_and_lasts_its_minutes(
    opens: datetime, minutes: int, zone: str
) -> None:
    entry = {"name": "any", "opens": f"{opens:%H:%M}", "minutes": minutes}
    every_day = parse_calendar(
        {"zone": zone, "calendar": [{**entry, "weekdays": list(WEEKDAYS)}], "blackouts": []}
    )
    window_id = f"{opens:%Y%m%d%H%M}"
    try:
        window = every_day.window(window_id)
    except ApgmsError as error:
        assert error.reason == "window.no_such_time"
        minute = datetime.fromisoformat(f"{opens:%Y-%m-%d %H:%M}")
        noon = [minute.replace(hour=12, tzinfo=every_day.zone) + timedelta(days=d) for d in (-1, 1)]
        assert noon[0].utcoffset() != noon[1].utcoffset()  # only where clocks change
    else:
        local = window.opens_at.astimezone(every_day.zone)
        assert f"{local:%Y%m%d%H%M}" == window_id
        assert local.fold == 0
        assert window.closes_at - window.opens_at == timedelta(minutes=minutes)


@given(st.text(max_size=14))
def test_a_window_id_is_its_own_date(text: str) -> None:
    try:
        moment = parse_window_id(text)
    except ValueError:
        return
    assert f"{moment.year:04}{moment:%m%d%H%M}" == text


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)))
def test_every_minute_has_an_id(moment: datetime) -> None:
    text = f"{moment.year:04}{moment:%m%d%H%M}"
    assert parse_window_id(text) == moment.replace(second=0, microsecond=0)


ENTRY = {"name": "e", "opens": "18:00", "minutes": 60, "weekdays": ["mon"]}
ONCE = {"name": "e", "opens": "18:00", "minutes": 60, "date": "2026-11-25"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zone": "Mars/Olympus"}, "time zone database"),
        ({"zone": "../../etc/passwd"}, "time zone database"),
        ({"zone": ""}, "zone"),
        ({"zone": None}, "zone"),
        ({"calendar": None}, "not a list"),
        ({"calendar": [{**ENTRY, "date": "2026-11-25"}]}, "members"),
        ({"calendar": [{"name": "e", "opens": "18:00", "minutes": 60}]}, "members"),
        ({"calendar": [{**ENTRY, "until": "21:00"}]}, "members"),
        ({"calendar": [{**ENTRY, "name": " "}]}, "name"),
        ({"calendar": [{**ENTRY, "minutes": 0}]}, "minutes is 0"),
        ({"calendar": [{**ENTRY, "minutes": 10081}]}, "minutes is 10081"),
        ({"calendar": [{**ENTRY, "minutes": True}]}, "minutes"),
        ({"calendar": [{**ENTRY, "minutes": "60"}]}, "minutes"),
        ({"calendar": [{**ENTRY, "opens": "24:00"}]}, "hour"),
        ({"calendar": [{**ENTRY, "opens": "6:00"}]}, "opens"),
        ({"calendar": [{**ENTRY, "opens": "18:00:00"}]}, "opens"),
        ({"calendar": [{**ENTRY, "weekdays": ["Mon"]}]}, "weekdays"),
        ({"calendar": [{**ENTRY, "weekdays": []}]}, "weekdays"),
        ({"calendar": [{**ENTRY, "weekdays": "mon"}]}, "weekdays"),
        ({"calendar": [{**ONCE, "date": "2026-02-29"}]}, "day is out of range"),
        ({"calendar": [{**ONCE, "date": "20261125"}]}, "date"),
        ({"calendar": [{**ONCE, "date": "9999-12-31"}]}, "date"),
        ({"calendar": [{**ONCE, "date": "2026-10-04", "opens": "02:30"}]}, "has no 02:30"),
        ({"blackouts": [{"first": "2026-12-27", "last": "2026-12-24", "reason": "r"}]}, "before"),
        ({"blackouts": [{"first": "2026-12-24", "last": "2026-12-27"}]}, "members"),
        ({"blackouts": {}}, "not a list"),
        ({"holidays": []}, "unknown members"),
    ],
)
def test_a_malformed_calendar_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        calendar(**changes)


def test_a_dated_entry_falls_on_its_date_alone() -> None:
    (entry,) = calendar(calendar=[ONCE]).entries
    days = [date(2026, 11, 25) + timedelta(days=ahead) for ahead in range(-366, 367)]
    assert [day for day in days if entry.falls_on(day)] == [date(2026, 11, 25)]
