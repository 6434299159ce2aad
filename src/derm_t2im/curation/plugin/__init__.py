"""Our part of the FiftyOne App: Keep and Discard, the nearest real images, the map of the features.

FiftyOne loads this file in the App's server, from the folder of plugins of our own session.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import fiftyone.operators as foo
import fiftyone.operators.types as types

from derm_t2im.curation import review, room

_REASONS = {
    "blur": "Blurred",
    "artefact": "Ink, ruler, hair, gel or another artefact",
    "not a lesion": "No lesion, or not skin",
    "wrong class": "Not of the class that the prompt asked for",
    "copy": "A copy of a real image",
    "twin": "Looks like another synthetic image",
}
_SHOWN = 8  # images with their neighbours in the panel
_SIDE = "70px"  # six of them fit beside the grid on a screen 1,400 px wide
_HEIGHT = 360  # of the map, pixels: it does not grow with its panel
_KEEP, _DISCARD = "keep", "discard"
_URI = "@derm-t2im/curation/"


def _chosen(ctx: Any) -> list[str]:
    """Sample ids: those selected, else the one that is open."""
    return list(ctx.selected) or ([ctx.current_sample] if ctx.current_sample else [])


def _tag(ctx: Any, word: str) -> dict[str, int]:
    view = ctx.dataset.select(_chosen(ctx)).match({"kind": "synthetic"})
    old = view.values("tags")
    view.set_values("tags", [room.retag(tags or [], word) for tags in old])
    others = len(_chosen(ctx)) - len(old)
    ctx.ops.clear_selected_samples()
    ctx.ops.reload_dataset()
    said = f"{len(old)} tagged {word!r}" + (f"; {others} real images left alone" if others else "")
    ctx.ops.notify(said, variant="success" if old else "warning")
    return {"tagged": len(old)}


class Keep(foo.Operator):
    """Tag the selected synthetic images `keep`."""

    @property
    def config(self) -> Any:
        """What the App lists."""
        about = "Keep the selected synthetic images whatever the rules say"
        return foo.OperatorConfig(name=_KEEP, label="Keep", description=about, icon="check", view_target=False)

    def resolve_input(self, ctx: Any) -> Any:
        """No questions, but there must be a selection."""
        inputs = types.Object()
        if _chosen(ctx):
            return None
        inputs.view("nothing", types.Error(label="Select synthetic images first"), invalid=True)
        return types.Property(inputs, view=types.View(label="Keep"))

    def resolve_placement(self, ctx: Any) -> Any:
        """A button above the grid."""
        return types.Placement(types.Places.SAMPLES_GRID_ACTIONS, types.Button(label="Keep", icon="check", prompt=True))

    def execute(self, ctx: Any) -> dict[str, int]:
        """Set the tag."""
        return _tag(ctx, review.KEEP)


class Discard(foo.Operator):
    """Tag the selected synthetic images `discard: why`."""

    @property
    def config(self) -> Any:
        """What the App lists."""
        about = "Discard the selected synthetic images, with the reason"
        return foo.OperatorConfig(
            name=_DISCARD, label="Discard", description=about, icon="close", dynamic=True, view_target=False
        )

    def resolve_input(self, ctx: Any) -> Any:
        """Ask for the reason."""
        inputs = types.Object()
        n = len(_chosen(ctx))
        if not n:
            inputs.view("nothing", types.Error(label="Select synthetic images first"), invalid=True)
        else:
            choices = types.RadioGroup()
            for value, label in _REASONS.items():
                choices.add_choice(value, label=label)
            inputs.enum("reason", choices.values(), view=choices, label="Reason", default=None)
            inputs.str("note", label="In your own words", description="Instead of the reason above, or beside it")
            if not _why(ctx.params):
                inputs.view("why", types.Notice(label="Choose a reason or write one"), invalid=True)
        title = f"Discard {n} image{'s' if n > 1 else ''}"
        return types.Property(inputs, view=types.PromptView(label=title, submit_button_label="Discard"))

    def resolve_placement(self, ctx: Any) -> Any:
        """A button above the grid."""
        return types.Placement(
            types.Places.SAMPLES_GRID_ACTIONS, types.Button(label="Discard", icon="close", prompt=True)
        )

    def execute(self, ctx: Any) -> dict[str, int]:
        """Set the tag."""
        why = _why(ctx.params)
        return _tag(ctx, f"{review.DISCARD}: {why}" if why else review.DISCARD)


def _why(params: dict[str, Any]) -> str:
    said = (params.get("reason"), params.get("note"))
    return ", ".join(" ".join(str(one).split()) for one in said if one and str(one).strip())


class NearestReal(foo.Panel):
    """The training images nearest to the selected synthetic ones."""

    @property
    def config(self) -> Any:
        """What the App lists."""
        return foo.PanelConfig(name="nearest_real", label="Nearest real lesions", icon="compare", surfaces="grid modal")

    def on_load(self, ctx: Any) -> None:
        """Look at the selection."""
        self._look(ctx)

    def on_change_selected(self, ctx: Any) -> None:
        """Look at the selection."""
        self._look(ctx)

    def on_change_current_sample(self, ctx: Any) -> None:
        """Look at the open image."""
        self._look(ctx)

    def _look(self, ctx: Any) -> None:
        ctx.panel.state.shown = _chosen(ctx)[:_SHOWN]

    def render(self, ctx: Any) -> Any:
        """Keep and Discard; then a row for each image: itself, and its neighbours with their distances."""
        panel = types.Object()
        rows = room.with_neighbours(ctx.dataset, ctx.panel.state.shown or [])
        if not rows:
            panel.md("Select synthetic images, or open one, to see the real training images nearest to them.")
        else:
            buttons = panel.h_stack("buttons", gap=1)
            for one, icon in ((_KEEP, "check"), (_DISCARD, "close")):
                buttons.btn(
                    one, label=one.capitalize(), icon=icon, variant="outlined", prompt=True, on_click=_URI + one
                )
        for i, row in enumerate(rows):
            strip = types.Object()
            for j, (path, text) in enumerate(row):
                cell = types.Object()
                source = f"/media?filepath={quote(path)}"
                cell.str("picture", default=source, view=types.ImageView(height=_SIDE, width=_SIDE, alt=text))
                cell.md(text, name="text")
                strip.define_property(f"c{j}", cell, view=types.VStackView(gap=0))
            panel.define_property(f"r{i}", strip, view=types.HStackView(gap=1))
        return types.Property(panel, view=types.GridView(orientation="vertical", gap=2))


class FeatureMap(foo.Panel):
    """All images as points, coloured by their source; a lasso selects."""

    @property
    def config(self) -> Any:
        """What the App lists."""
        return foo.PanelConfig(name="feature_map", label="Map of features", icon="scatter_plot")

    def on_load(self, ctx: Any) -> None:
        """Send the points."""
        ctx.panel.data.points = room.traces(ctx.dataset)

    def on_selected(self, ctx: Any) -> None:
        """Show the images of the points within the lasso."""
        ids = [point["id"] for point in ctx.params.get("data") or [] if point.get("id")]
        if ids:
            ctx.ops.set_extended_selection(ids)

    def render(self, ctx: Any) -> Any:
        """One plot."""
        panel = types.Object()
        panel.plot(
            "points",
            layout={
                "dragmode": "lasso",
                "height": _HEIGHT,
                "xaxis": {"visible": False},
                "yaxis": {"visible": False},
                "showlegend": True,
                "legend": {"x": 1, "xanchor": "right", "y": 0.95, "font": {"color": "#cccccc"}},
                "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            },
            on_selected=self.on_selected,
        )
        return types.Property(panel)


def register(plugin: Any) -> None:
    """FiftyOne's entry."""
    for one in (Keep, Discard, NearestReal, FeatureMap):
        plugin.register(one)
