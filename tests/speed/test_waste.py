"""The figures of waste at sizes that take no time; its times are not tested here, but for the switch's bound."""

from piflow_cli.speed.waste import measured_metric, micro_step, switching_ms


def test_a_data_free_micro_step_never_waits() -> None:
    crossed = micro_step(total_substeps=8)
    assert crossed.reads == []
    assert 0 < len(crossed.sends) <= 4 * 26


def test_products_and_plain_distances_give_the_same_scores() -> None:
    product_s, plain_s, same = measured_metric(60, 8)
    assert same
    assert product_s > 0
    assert plain_s > 0


def test_a_student_of_flux_depth_switches_by_flags_alone() -> None:
    """Two milliseconds would be a walk; one is what a step may pay."""
    modules, ours_ms, walk_ms = switching_ms(repeats=100)
    assert modules > 2000
    assert ours_ms < 1
    assert ours_ms < walk_ms / 5
