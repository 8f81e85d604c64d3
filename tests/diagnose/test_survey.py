"""The survey's page is made of its rows, and every network has one row."""

from docs import survey


def test_the_page_is_current():
    rows = survey.rows()
    assert survey.PAGE.read_text(encoding="utf-8") == survey.page(rows), "python docs/survey.py"
    assert len(set(survey.NETWORKS)) == 60 and set(rows.network) <= set(survey.NETWORKS)
    assert (rows.pt2e_dB.notna() | rows.why_not.notna() | rows.pt2e_why_not.notna()).all()
