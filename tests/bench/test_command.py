"""``lemon-sc bench``."""

import pandas as pd

from lemon_sc.cli import main


def test_scores_are_printed_and_kept(plain_sets, tmp_path, capsys):
    given = ["bench", "brecahad", "--data", str(plain_sets), "--out", str(tmp_path), "--encoders", "histogram"]
    assert main(given) == 0
    text = capsys.readouterr().out
    assert "brecahad               slide        histogram                  balanced_accuracy 1.000 (sd 0.000)" in text
    assert set(pd.read_csv(tmp_path / "results.csv")["task"]) == {"brecahad"}


def test_tasks_are_listed_with_where_their_data_are(capsys):
    assert main(["bench", "--list"]) == 0
    text = capsys.readouterr().out
    assert "midog25" in text
    assert "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke" in text


def test_a_task_without_data_is_an_error_that_says_what_to_do(tmp_path, capsys):
    assert main(["bench", "pannuke", "--data", str(tmp_path), "--encoders", "histogram"]) == 1
    assert "Lay them out as pannuke/Fold 1" in capsys.readouterr().err
    assert main(["bench", "panuke", "--data", str(tmp_path)]) == 1
    assert "Did you mean 'pannuke'" in capsys.readouterr().err
