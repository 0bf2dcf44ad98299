"""The published tables: complete, and as printed."""

import csv
from pathlib import Path

import pytest

import dit_eval.paper
from dit_eval.paper import GFLOPS_DECIMALS, PRINTED_METRICS, load_table

PRINTED = {  # typed from the paper a second time
    (1, "layers"): [12, 12, 24, 28],
    (1, "hidden_size"): [384, 768, 1024, 1152],
    (1, "heads"): [6, 12, 16, 16],
    (1, "gflops"): [1.4, 5.6, 19.7, 29.1],
    (4, "gflops"): [
        0.36, 1.41, 6.06, 1.42, 5.56, 23.01, 5.01, 19.7, 80.71, 7.39, 29.05, 118.64, 119.37, 137.62, 118.56, 118.64,
        118.64, 524.6, 524.6,
    ],
    (4, "params_m"): [33] * 3 + [131, 130, 130, 459, 458, 458, 676, 675, 675, 449, 598, 600] + [675] * 4,
    (4, "training_steps_k"): [400] * 15 + [2352, 7000, 1301, 3000],
    (4, "image_size"): [256] * 17 + [512] * 2,
    (4, "batch_size"): [256] * 19,
    (4, "learning_rate"): [1e-4] * 19,
    (4, "fid_50k"): [
        153.6, 100.41, 68.4, 122.74, 68.38, 43.47, 118.87, 45.64, 23.33, 106.41, 43.01, 19.47, 35.24, 26.14, 25.21,
        10.67, 9.62, 13.78, 11.93,
    ],
    (6, "image_size"): [128, 256, 512, 256, 512, 256, 256],
    (6, "base_gflops"): [307, 1120, 1983, 110, 307, 104, 57],
    (6, "total_gflops"): [307, 1120, 1983, 742, 2813, 104, 57],
}  # fmt: skip


@pytest.mark.parametrize(("number", "column"), PRINTED)
def test_the_numbers_are_the_papers(number, column):
    assert load_table(number)[column].tolist() == PRINTED[number, column]
    assert load_table(number)["source"].str.startswith(f"arXiv 2212.09748v2, Table {number}").all()


def test_the_upsamplers_make_up_the_totals():
    table = load_table(6)
    assert table["upsampler_gflops"].dropna().tolist() == [632, 2506]
    assert (table["base_gflops"] + table["upsampler_gflops"].fillna(0)).tolist() == table["total_gflops"].tolist()


@pytest.mark.parametrize("number", GFLOPS_DECIMALS)
def test_gflops_keep_the_printed_digits(number):
    path = Path(dit_eval.paper.__file__).with_name(f"table{number}.csv")
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                if column.endswith("gflops") and text:
                    assert len(text.partition(".")[2]) == GFLOPS_DECIMALS[number], row


def test_the_text_says_the_same_but_for_one_model():
    rows = [(table.model, table.gflops, table.gflops_in_text) for table in load_table(4).dropna().itertuples()]
    rows += [(table.model, table.total_gflops, table.gflops_in_text) for table in load_table(6).itertuples()]
    stated = [(model, printed, text) for model, printed, text in rows if text == text]
    assert len(stated) == 8 + 5
    other = [model for model, printed, text in stated if abs(printed - text) > 0.05]
    assert other == ["LDM-4"]


def test_a_dash_is_unknown_and_no_note_is_empty_text():
    assert load_table(6)["upsampler_gflops"].isna().sum() == 5
    assert load_table(4)["note"].map(type).eq(str).all()


def test_an_unknown_table_says_which_there_are():
    with pytest.raises(ValueError, match="no table 9 here; known: 1, "):
        load_table(9)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_the_printed_metrics_are_the_columns_of_the_tables(number):
    columns = list(load_table(number).columns)
    start = columns.index("fid")
    assert tuple(columns[start : start + len(PRINTED_METRICS)]) == PRINTED_METRICS
    assert columns[start + len(PRINTED_METRICS)] == "source"
