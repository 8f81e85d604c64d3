"""The scoreboard: whose numbers win, what a file must look like, what makes it into data/."""
import math

import pytest

from blaze_utils.measure import scoreboard
from blaze_utils.measure.scoreboard import ScoreboardError, forget, load, publish, record

AP = {"easy": 0.99, "medium": 0.97, "hard": 0.85}
HEADER = "variant,engine,ap_easy,ap_medium,ap_hard,latency_ms,latency_ratio,kilobytes,notebook\n"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Both files in an empty folder instead of the project's."""
    monkeypatch.setattr(scoreboard, "OWN", tmp_path / "build" / "scoreboard.csv")
    monkeypatch.setattr(scoreboard, "SHIPPED", tmp_path / "data" / "scoreboard.csv")
    (tmp_path / "data").mkdir()


def put(variant, notebook="01_float", **changes):
    values = {"ap": AP, "latency_ms": 20.0, "latency_ratio": 1.0, "kilobytes": 700, **changes}
    record(variant, notebook=notebook, **values)


def ship(*lines):
    scoreboard.SHIPPED.write_text(HEADER + "".join(line + "\n" for line in lines),
                                  encoding="utf-8")


def test_a_recorded_row_comes_back():
    put("float", engine="x86", latency_ms=12.34567)
    row = load().iloc[0].to_dict()
    assert row == {"variant": "float", "engine": "x86", "ap_easy": 0.99, "ap_medium": 0.97,
                   "ap_hard": 0.85, "latency_ms": 12.3457, "latency_ratio": 1.0,
                   "kilobytes": 700.0, "notebook": "01_float"}
    assert scoreboard.OWN.read_bytes().decode("utf-8") == (
        HEADER + "float,x86,0.99,0.97,0.85,12.3457,1,700,01_float\n")


def test_a_variant_is_replaced_where_it_stands():
    for variant, time in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        put(variant, latency_ms=time)
    assert load()[["variant", "latency_ms"]].values.tolist() == [["a", 3.0], ["b", 2.0]]


def test_rows_go_by_notebook_then_by_the_order_recorded():
    for variant, notebook in (("z", "02_b"), ("y", "01_a"), ("x", "02_b"), ("w", "01_a")):
        put(variant, notebook)
    assert list(load()["variant"]) == ["y", "w", "z", "x"]


def test_the_readers_rows_win_over_the_shipped_ones():
    ship("float,-,1,1,1,50,1,700,01_float", "int8,x86,1,1,1,20,0.4,200,02_int8")
    put("float", latency_ms=30.0)
    assert load()[["variant", "latency_ms"]].values.tolist() == [["float", 30.0], ["int8", 20.0]]


def test_nothing_recorded_is_an_empty_table(capsys):
    assert list(load().columns) == HEADER.strip().split(",") and load().empty
    scoreboard.main()
    assert "run notebook 01 first" in capsys.readouterr().out


def test_what_was_not_measured_is_nan_empty_in_the_file_and_a_dash_in_print(capsys):
    put("float", ap=dict.fromkeys(AP, math.nan), latency_ms=math.nan)
    assert ",,,,,1,700," in scoreboard.OWN.read_text(encoding="utf-8")
    assert math.isnan(load().loc[0, "ap_hard"])
    scoreboard.main()
    assert "NaN" not in capsys.readouterr().out


@pytest.mark.parametrize("changes, message", [
    ({"ap": {**AP, "hard": 1.01}}, "ap_hard: expected 0 to 1, or NaN, got 1.01"),
    ({"ap": {"easy": 1.0}}, "ap: expected the keys easy, medium and hard"),
    ({"latency_ms": 0.0}, "latency_ms: expected a positive number"),
    ({"latency_ratio": math.inf}, "latency_ratio: expected a positive number"),
    ({"kilobytes": -1}, "kilobytes: expected a positive number"),
    ({"engine": " "}, "engine: expected a text that is not empty"),
])
def test_a_value_out_of_range_is_refused_and_nothing_is_written(changes, message):
    with pytest.raises(ScoreboardError, match=message):
        put("float", **changes)
    assert not scoreboard.OWN.exists()


@pytest.mark.parametrize("text, message", [
    ("", "expected the columns variant,"),
    ("variant,speed\nfloat,3\n", "expected the columns variant,.*got .*speed"),
    (HEADER + "float,-,1,1\n", "line 2: expected 9 columns, got 4"),
    (HEADER + "float,-,1,1,fast,50,1,700,01\n", "line 2: ap_hard: not a number: 'fast'"),
    (HEADER + "a,-,1,1,1,50,1,700,01\nb,-,1,1,1,-5,1,700,01\n", "line 3: latency_ms: expected"),
    (HEADER + "a,-,1,1,1,50,1,700,01\n" * 2, "a variant stands in it twice"),
    (HEADER + 'a,"-,1,1,1,50,1,700,01\n', "unexpected end of data"),
])
def test_a_broken_file_is_named_with_the_line_and_the_reason(text, message):
    ship()
    scoreboard.SHIPPED.write_text(text, encoding="utf-8")
    with pytest.raises(ScoreboardError, match=message) as caught:
        load()
    assert str(scoreboard.SHIPPED) in str(caught.value)


def test_a_file_that_is_not_text_is_named():
    scoreboard.SHIPPED.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScoreboardError, match="not a scoreboard"):
        load()


def test_forget_drops_one_notebooks_rows_only():
    put("a", "01_float")
    put("b", "02_int8")
    forget("01_float")
    assert list(load()["variant"]) == ["b"]


def test_publish_takes_new_rows_keeps_others_and_drops_notebooks_that_are_gone():
    ship("old,-,1,1,1,50,1,700,01_float", "kept,x86,1,1,1,20,0.4,200,02_int8",
         "gone,x86,1,1,1,20,0.4,200,09_gone")
    put("new", "01_float")
    put("local", "03_not_executed_now")
    publish(executed=["01_float"], existing=["01_float", "02_int8"])
    assert [row.variant for row in scoreboard.read_rows(scoreboard.SHIPPED)] == ["new", "kept"]
