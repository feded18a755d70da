"""Comparing answers and finding them in feedback."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.folr import first_occurrence
from tspo_cli.credit.gold_match import (
    contains_answer,
    exact_match,
    f1_score,
    is_degenerate,
    normalize_answer,
)
from tspo_cli.credit.group import CreditTrajectory, CreditTurn
from tspo_cli.credit.outcome import outcome_reward, well_formed
from tspo_cli.data.check import AnswerFinder
from tspo_cli.data.word_forms import wanted


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("a U.S. state", "us state"),
        ("Anna and the theatre", "anna and theatre"),
        ("São Paulo", "são paulo"),
        ("---", ""),
        ("The", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@given(st.text(max_size=40).filter(lambda text: "<" not in text))  # tags are no words
def test_an_answer_matches_itself_and_its_normal_form_is_single_spaced(text: str) -> None:
    normal = normalize_answer(text)
    assert "  " not in normal
    assert normal == normal.strip()
    if normal:
        assert exact_match(text, [text])
        assert contains_answer(f"It is {text} , they say.", [text])
        assert f1_score(text, [text]) == 1


def test_exact_match_takes_any_gold() -> None:
    assert exact_match("the beatles", ["Queen", "Beatles"])
    assert not exact_match("beatle", ["Beatles"])
    assert not exact_match(None, ["Beatles"])
    assert not exact_match("", ["---"])
    assert not exact_match("...", ["---"])
    assert exact_match("The The", ["the the"])


def test_f1_is_the_best_over_golds() -> None:
    assert f1_score("Barack Obama", ["Obama", "Barack Hussein Obama"]) == pytest.approx(0.8)
    assert f1_score(None, ["Obama"]) == 0


@pytest.mark.parametrize(
    ("text", "gold", "boundary", "substring", "raw"),
    [
        ("In November it snowed.", "no", False, True, True),
        ("He moved to the U.S. in 1990", "US", True, True, False),
        ("He moved to the US in 1990", "u.s.", True, True, False),
        ("the  Beatles,", "The Beatles", True, True, False),
        ("Jean-Luc Picard", "Picard", True, True, True),
        ("nothing", "the", False, False, False),
        ("", "x", False, False, False),
        ('<information>Doc 1(Title: "Rome")</information>', "information", False, False, False),
        ('Doc 1(Title: "Rome") Capital', "Doc 1", False, False, False),
        ('Doc 1(Title: "Rome") Capital', "Rome Capital", True, True, False),
        ("so <answer>Paris</answer>", "Paris", True, True, True),
        ("so <search>Paris</search> next", "search", False, False, False),
    ],
)
def test_finding_answers(text: str, gold: str, boundary: bool, substring: bool, raw: bool) -> None:
    found = [
        contains_answer(text, [gold], match)
        for match in ("norm_token_boundary", "norm_substring", "raw_lower")
    ]
    assert found == [boundary, substring, raw]


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("Shakespeare", "Shakespeare's Hamlet"),
        ("1967", "he reigned 1967-1990"),
        ("1967", "(1967\u20131990)"),
        ("Paris", "a Paris-born painter"),
        ("Paris", "the Paris/London line"),
        ("Paris", "\u00abParis\u00bb"),
        ("Titanic", "\u201cTitanic\u201d"),
        ("500", "it cost \u00a3500"),
        ("U.S.", "a U.S.-based firm"),
        ("St. Louis", "in St. Louis."),
        ("U.S.", "the U.S. Navy"),
        ("US", "a U.S.-based firm"),
        ("USA", "the U.S.A is large"),
        ("J.K. Rowling", "JK Rowling\u2019s books"),
        ("JK Rowling", "J.K. Rowling's books"),
        ("Jean-Luc", "Jean Luc Picard"),
        ("10,000", "10000 men"),
        ("10000", "a 10,000-seat hall"),
        ("Beyonc\u00e9", "Beyonce\u0301's song"),
        ("Sa\u0303o Paulo", "S\u00e3o Paulo"),
        ("Sao Paulo", "S\u00e3o Paulo"),
        ("rock 'n' roll", "rock \u2019n\u2019 roll"),
        ("Lord of the Rings", "the Lord of the Rings: I"),
        ("The Beatles", "(The Beatles)"),
        ("cooperate", "coop\u00aderate"),
        ("O\u2019Brien", "O'Brien\u2014led"),
        ("\u5317\u4eac", "\u6211\u5728\u5317\u4eac\u3002"),
        ("\u221e", "the limit is \u221e ."),
        ("1,500", "\u00a31,500-a-year"),
        ("1500", "some 1,500."),
        ("1 500", "1,500 men"),
        ("2,500,000.5", "2500000.5"),
        ("3.5", "a 3.5-mile walk"),
        ("1776", "July 4,1776"),
        ("1776", "on 4.7.1776."),
        ("12", "12,13 and 14"),
        ("40", "$40.\u201d"),
        ("Rome", "in Rome\x1fthen"),
        ("Hepatitis A", "hepatitis A is a virus"),
        ("Serie A", "in Serie A since 1897"),
        ("Serie A", "he left the (Serie) A for Spain"),
        ("Division I-A", "the Division I-A teams"),
        ("Isle of An", "the isle of an end"),
        ("\u0645\u062d\u0645\u062f", "\u0645\u064f\u062d\u064e\u0645\u064e\u0651\u062f \u0639"),
        ("\u0645\u062d\u0645\u062f", "\u0645\u062d\u0640\u0640\u0645\u062f."),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd"),
        ("University of Arts", "University of the Arts London"),
        ("University of the Arts", "at University of Arts"),
        ("NASA", "\uff2e\uff21\uff33\uff21\uff0cand"),
        ("1500", "\uff11\uff0c\uff15\uff10\uff10 men"),
        ("\u30ab\u30ca", "\uff76\uff85"),
        ("\u0645\u062d\u0645\u062f", "\ufee3\ufea4\ufee4\ufeaa"),
        ("Henry VIII", "Henry \u2167\u2019s wives"),
        ("Louis \u217bi", "Louis XIIi"),
        ("CO2", "CO\u2082 in air"),
        ("H2O", "H\u2082O"),
        ("5 m2", "5 m\u00b2"),
        ("10^6", "10\u2076 cells"),
        ("Rome", "in Rome\u00b2"),
        ("1/2", "\u00bd cup"),
        ("3\u00be", "a 3 3/4 inch pipe"),
        ("\u2468", "9"),
        ("file", "a \ufb01le"),
        ("Windows", "Windows\u2122 95"),
        ("Lodz", "\u0141\u00f3d\u017a"),
        ("Troms\u00f8", "in Tromso"),
        ("Strasse", "Stra\u00dfe"),
        ("Encyclopaedia", "Encyclop\u00e6dia"),
        ("Thor", "\u00de\u00f3r"),
        ("C++", "in C++, and"),
        ("C++ language", "the C++ language"),
        ("C# minor", "in C\u266f minor"),
        ("Google", "the Google+ page"),
        ("X+B Records", "XB Records"),
        ("100+", "100 men"),
        ("7:30", "at 7.30"),
        ("3.5", "3,5 km"),
        ("1.500", "1500 men"),
        ("1/2", "1/2 cup"),
        ("1/2", "a 1-2 lead"),
        ("1939", "the season 1939/40"),
        ("1776", "on 7/4/1776"),
        ("1939/40", "in 1939\u201340"),
        ("AC/DC", "ACDC's songs"),
        ("\uc11c\uc6b8", "\uc11c\uc6b8\uc740 \ud55c\uad6d\uc758 \uc218\ub3c4\uc774\ub2e4"),
        ("\uc774\uc21c\uc2e0", "\uc774\uc21c\uc2e0\uc774 \uc774\uacbc\ub2e4"),
        ("\uc138\uc885\ub300\uc655", "\uc870\uc120\uc758 \uc138\uc885\ub300\uc655\uc5d0\uac8c."),
        ("\uc81c\uc8fc\ub3c4", "\uc81c\uc8fc\ub3c4\ub97c \uac14\ub2e4"),
        ("1967", "1967年"),
        ("1967年", "于1967年。"),
        ("1967年", "于 1967 年"),
        ("1967", "１９６７年"),
        ("3人", "共3人到场"),
        ("1,500", "共1500人"),
        ("3.5", "约3.5公里"),
        ("Paris", "在Paris的"),
        ("iPhone", "新iPhone的"),
        ("Łódź", "在Lodz的"),
        ("北京", "在NHK北京市"),
        ("北京2022", "北京2022年冬奥会"),
        ("维生素A", "维生素 A 是"),
        ("東京タワー", "東京タワーの高さは333m"),
        ("333m", "高さは333mです"),
        ("Bangkok", "ในBangkokและ"),
        ("2475", "ปี2475มี"),
        ("Мир", "станция「Мир」号"),
        ("Мир", "在Мир号"),
        ("1968", "그는 1968년에 왔다"),
        ("1968년", "그는 1968년에 왔다"),
        ("BTS", "BTS는 한국의"),
        ("서울", "KBS서울은"),
        ("서울", "在서울的"),
        ("10²", "10^2 cells"),
        ("10^12", "10¹² cells"),
        ("10¹²", "10^12 cells"),
        ("10", "10² cells"),
        ("1967", "in 1967²"),
    ],
)
def test_either_form_of_a_word_is_found(gold: str, text: str) -> None:
    assert contains_answer(text, [gold])
    assert CreditConfig().match == "either_word_form"


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("May", "the mayor"),
        ("art", "a part"),
        ("Rome", "Romeo"),
        ("196", "1967-1990"),
        ("Ann", "Anna's house"),
        ("Paris", "Parisian"),
        ("US", "a USB-C plug"),
        ("500", "\u00a31,500"),
        ("1", "1,500 men"),
        ("5", "3.5 miles"),
        ("000", "2,000,000-strong"),
        ("3", "about 3.25%"),
        ("St Louis", "Stlouis"),
        ("New York", "a Newyorker"),
        ("the", "the end"),
        ("---", "a --- b"),
        ("Hepatitis A", "hepatitis B is a virus"),
        ("Hepatitis A", "hepatitis the virus"),
        ("Serie A", "Serie Ab"),
        ("information", "<information>Doc 1(Title: x)</information>"),
        ("C++", "vitamin C"),
        ("C++", "a C+ grade"),
        ("C+", "C++ code"),
        ("F#", "the F key"),
        ("Disney+", "Walt Disney"),
        ("3.5", "35 million"),
        ("35", "3.5 million"),
        ("1.25", "125 men"),
        ("NASA", "\uff2e\uff21\uff33\uff21\uff33"),
        ("12", "1/2 cup"),
        ("12", "\u00bd cup"),
        ("1/2", "12 cups"),
        ("911", "9/11"),
        ("\uc11c\uc6b8", "\uc11c\uc6b8\ub300\ud559\uad50"),
        ("\uc81c\uc8fc\ub3c4", "\uc81c\uc8fc\ub3c4\uc744"),  # no particle of a vowel
        ("\uc21c\uc2e0", "\uc774\uc21c\uc2e0\uc740"),
        ("seoul", "seouleun"),
        ("196", "1967年"),
        ("3", "共13人"),
        ("500", "共1,500人"),
        ("5", "约3.5公里"),
        ("12", "约1/2杯"),
        ("May", "在mayor的"),
        ("196", "1968년"),
        ("세종", "1세종대왕"),
        ("102", "10² cells"),
        ("102", "10^2 cells"),
        ("19", "1⁹"),
        ("106", "10⁻⁶ g"),
        ("1012", "10¹² cells"),
    ],
)
def test_other_words_are_not_found(gold: str, text: str) -> None:
    assert not contains_answer(text, [gold])


PLAIN = st.text(
    alphabet="ab the.,-'U\u00e9\u2013 \u00a3157+#\u00b2\u00bd\uff35\u00f8中한은", max_size=24
)


@given(text=PLAIN, golds=st.lists(PLAIN, max_size=3))
def test_the_ways_to_find_an_answer_agree(text: str, golds: list[str]) -> None:
    """Answers are found alike in one text and in a stream of passages."""
    finder = AnswerFinder([[gold] for gold in golds])
    finder.feed(text)
    wanted_golds = [gold for gold in golds if wanted(gold) is not None]
    found = [gold for number, gold in enumerate(golds) if number in finder.answered]
    assert found == [gold for gold in wanted_golds if contains_answer(text, [gold])]


def test_degenerate_answers() -> None:
    assert all(map(is_degenerate, ["Yes", "no.", "7", "the", "A"]))
    assert not any(map(is_degenerate, ["north", "42", "Ya"]))


@pytest.mark.parametrize(("source", "first"), [("retrieved", 2), ("generated", 3), ("either", 2)])
def test_where_the_answer_is_looked_for(source: str, first: int) -> None:
    turns = [
        CreditTurn("a", "nothing", "<search>a</search>"),
        CreditTurn("b", "Ada Lovelace was here", "<search>b</search>"),
        CreditTurn(None, "", "<answer>Ada Lovelace, I think</answer>"),
    ]
    config = CreditConfig(hit_source=source)  # type: ignore[arg-type]
    assert first_occurrence(turns, ["Ada Lovelace"], config) == (first, 1.0)


def test_a_whole_hit_beats_a_degenerate_one_in_the_same_turn() -> None:
    config = CreditConfig(degenerate="half")
    assert first_occurrence([CreditTurn("a", "yes, Rome")], ["yes", "Rome"], config) == (1, 1.0)
    assert first_occurrence(
        [CreditTurn("a", "yes"), CreditTurn("b", "Rome")], ["yes", "Rome"], config
    ) == (1, 0.5)


def test_outcome_forms() -> None:
    good = CreditTrajectory("Ada", (CreditTurn(None, "", "<think>x</think><answer>Ada</answer>"),))
    bad = CreditTrajectory("Ada", (CreditTurn(None, "", "<think>x<answer>Ada</answer>"),))
    partial = CreditTrajectory("Ada King", (CreditTurn(None, ""),))
    em, f1 = CreditConfig(), CreditConfig(outcome="f1")
    assert [outcome_reward(one, ["Ada"], em) for one in (good, bad, partial)] == [1, 1, 0]
    assert outcome_reward(partial, ["Ada"], f1) == pytest.approx(2 / 3)
    assert not well_formed("<search>a</search><search>b</search>")
    assert well_formed("")
