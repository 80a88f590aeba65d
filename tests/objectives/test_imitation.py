"""The keys of the imitation objective, and that a preset without a `type` means it."""

from piflow_cli.core.settings import SamplingSettings
from piflow_cli.objectives.imitation import Imitation
from piflow_cli.preset import load_preset, parse_preset, read_preset_table


def test_the_teachers_share_falls_linearly() -> None:
    assert [Imitation(teacher_mixing_steps=4).teacher_ratio(step) for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert Imitation().teacher_ratio(0) == 0.0


def test_a_table_without_a_type_is_imitation() -> None:
    table = read_preset_table("digits-1nfe")
    assert "type" not in table["objective"]
    assert isinstance(parse_preset(table).objective, Imitation)
    del table["objective"]
    assert parse_preset(table).objective == Imitation()


def test_a_stored_preset_says_its_objective() -> None:
    preset = load_preset("flux-4nfe")
    stored = preset.model_dump(mode="json")
    assert stored["objective"]["type"] == "imitation"
    assert parse_preset(stored) == preset


def test_a_step_does_what_preset_and_sampling_say() -> None:
    sampling = SamplingSettings(nfe=4, shift=3.2, final_step_scale=0.5, total_substeps=64)
    settings = Imitation(num_intermediates=4, window_substeps=3, loss_scale=30.0, stratified=True).settings(sampling)
    assert (settings.num_intermediates, settings.window_substeps, settings.loss_scale) == (4, 3, 30.0)
    assert (settings.shift.m, settings.total_substeps, settings.stratified) == (3.2, 64, True)
