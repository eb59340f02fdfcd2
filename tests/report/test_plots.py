"""What the plots hold; how they look is for eyes."""

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from peftcli.errors import RecipeError
from peftcli.report.comparison import side_by_side
from peftcli.report.page import write_plot
from peftcli.report.plots import loss_curve_svg, parameters_bar_svg, score_vs_parameters_svg, smoothed, thinned


def texts(svg):
    return [t.text.strip() for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if t.text]


@pytest.fixture(name="comparison")
def comparison_fixture(make, made_up, all_methods):
    return side_by_side([make(made_up(method)) for method in all_methods])


def test_the_loss_curve_marks_the_step_that_was_kept(make, made_up):
    shown = texts(loss_curve_svg(make(made_up())))
    assert "kept: step 1,680, 0.9404" in shown
    assert {"loss", "validation accuracy", "training, smoothed", "validation"} <= set(shown)


def test_a_run_without_curves_has_no_plot(make, made_up):
    document = made_up()
    document["training"] |= {"losses": [[1, 0.5]], "evaluations": []}
    assert loss_curve_svg(make(document)) is None


@pytest.mark.parametrize("missing", ["losses", "evaluations"])
def test_one_curve_alone_is_drawn(make, made_up, missing):
    document = made_up()
    document["training"][missing] = []
    assert loss_curve_svg(make(document))


def test_losses_that_are_not_known_are_left_out(make, made_up):
    document = made_up()
    document["training"]["losses"][5][1] = None
    assert "nan" not in loss_curve_svg(make(document)).lower()


def test_a_long_run_does_not_make_a_long_page(make, made_up):
    document = made_up()
    document["training"]["losses"] = [[s, 1 / (s + 1) + (s % 7) / 50] for s in range(100_000)]
    assert len(loss_curve_svg(make(document))) < 100_000


def test_thinning_keeps_every_spike():
    curve = [(float(s), 9.0 if s == 12_345 else 1.0) for s in range(50_000)]
    assert (12_345.0, 9.0) in thinned(curve)
    assert len(thinned(curve)) <= 800


def test_smoothing_a_line_gives_the_line():
    curve = [(float(s), 3.0) for s in range(500)]
    assert [value for _, value in smoothed(curve)] == pytest.approx([3.0] * 500)


def test_every_method_is_labelled_once_and_the_base_is_a_line(comparison, all_methods):
    shown = texts(score_vs_parameters_svg(comparison))
    assert all(shown.count(method) == 1 for method in all_methods)
    assert "un-tuned base 0.5092" in shown
    assert {"10k", "1M", "100M"} <= set(shown)


def test_labels_do_not_overlap(comparison):
    svg = ET.fromstring(score_vs_parameters_svg(comparison))
    names = {row.label for row in comparison.rows}
    boxes = []
    for element in svg.iter("{http://www.w3.org/2000/svg}text"):
        if element.text in names:
            anchor = re.search(r"text-anchor: (\w+)", element.get("style", ""))
            place = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
            x, y = map(float, place.groups()) if place else (float(element.get("x")), float(element.get("y")))
            width = 5.0 * len(element.text)
            left = x - {"middle": width / 2, "end": width}.get(anchor.group(1) if anchor else "start", 0)
            boxes.append((left, y - 7, left + width, y))
    assert len(boxes) == len(names) - 1
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_what_trains_nothing_is_no_point(make, made_up):
    document = made_up()
    document["parameters"]["delta"] = 0
    assert score_vs_parameters_svg(side_by_side([make(document)])) is None


def test_one_method_alone_is_drawn(make, made_up):
    assert "lora" in texts(score_vs_parameters_svg(side_by_side([make(made_up())])))


def test_the_bars_show_sites_in_the_fields_order_and_layers_by_number(make, made_up):
    shown = texts(parameters_bar_svg(make(made_up())))
    assert shown.index("W_q") < shown.index("W_v")
    assert "147,456" in shown
    assert [t for t in shown if t.isdecimal()][:12] == [str(i) for i in range(12)]


def test_one_site_in_one_layer_has_no_bars(make, made_up):
    document = made_up()
    document["parameters"] |= {"per_site": {"embeddings": 15_360}, "per_layer": {}}
    assert parameters_bar_svg(make(document)) is None


def test_a_plot_has_no_date_and_no_maker(comparison):
    svg = score_vs_parameters_svg(comparison)
    assert svg.startswith("<svg ")
    assert "metadata" not in svg
    assert "matplotlib" not in svg.lower()


def test_the_users_own_settings_change_no_byte(comparison):
    before = score_vs_parameters_svg(comparison)
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "another", "axes.facecolor": "red"}):
        assert score_vs_parameters_svg(comparison) == before


def test_a_plot_of_its_own_needs_no_page(tmp_path, comparison):
    write_plot(tmp_path / "plot.svg", comparison)
    text = (tmp_path / "plot.svg").read_text()
    assert texts(text) == texts(score_vs_parameters_svg(comparison))
    assert "var(" not in text
    assert "currentColor" not in text
    assert "background: #ffffff" in text


def test_a_plot_of_nothing_is_refused(tmp_path, make, made_up):
    document = made_up()
    document["metrics"]["validation"] = None
    with pytest.raises(RecipeError, match="nothing to plot"):
        write_plot(tmp_path / "plot.svg", side_by_side([make(document)]))


def test_plots_take_the_colours_of_their_page(make, made_up):
    svg = loss_curve_svg(make(made_up()))
    assert "currentColor" in svg
    assert "var(--blue" in svg
    assert "DejaVu" not in svg
