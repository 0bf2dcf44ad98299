"""Points and tables that several files of tests look at, and none changes."""

import pytest
from report_runs import mini_gflops, mini_results, rough_count, synthetic_results

from dit_eval.flops.kept import Count
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.setting import select, settings
from dit_eval.report.tables import paper


@pytest.fixture(scope="session")
def measured():
    results = [(f"results.jsonl, line {n}", r) for n, r in enumerate(synthetic_results(), start=1)]
    return measured_points(results, count=rough_count)


@pytest.fixture(scope="session")
def together(measured):
    import pandas

    return pandas.concat([published_points(), measured], ignore_index=True)


@pytest.fixture(scope="session")
def papers():
    return settings(published_points())[0]


@pytest.fixture(scope="session")
def minis():
    """The setting of a study of a family in miniature, on digits."""
    import pandas

    results = [(f"results.jsonl, line {n}", r) for n, r in enumerate(mini_results(), start=1)]
    own = measured_points(results, count=lambda n: Count(gflops=mini_gflops(n), params_m=n["hidden_size"] ** 2 / 5e4))
    paper, digits = settings(pandas.concat([published_points(), own], ignore_index=True))
    assert paper.is_papers
    assert not len(select(paper.points, source="measured"))
    return digits


@pytest.fixture(scope="session")
def paper_tables():
    return {table.name: table for table in paper.paper_tables(published_points())}
