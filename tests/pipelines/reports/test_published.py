from __future__ import annotations

from pipelines.reports.published import published


def test_every_published_number_has_its_source_and_protocol() -> None:
    for name in ("fine_diving", "mtl_aqa", "kimore"):
        protocol, rows = published({name})
        assert protocol
        assert len(rows) > 3
        assert all(row["source"] and 0 < row["Spearman"] < 1 for row in rows)


def test_rendered_mixed_and_unknown_data_have_none() -> None:
    for names in ({"rendered"}, {"fine_diving_twin"}, {"kimore", "fine_diving"}, {"mine"}, set()):
        assert published(names) == ("", [])
