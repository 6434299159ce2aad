"""Great Expectations: run suites, write Data Docs that can be read without a network."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from derm_t2im.validation import docs
from derm_t2im.validation.rules import Outcome, Rule, Suite

SITE = "site"
EXAMPLES = 12  # offending images of a rule that the page shows; a message names fewer


def run(suites: Sequence[Suite], folder: Path | None = None) -> list[Outcome]:
    """Check every rule of every suite; write Data Docs (``index.html``) to ``folder``, which must not exist yet.

    Nothing is sent anywhere, and nothing is printed.

    Raises:
        ValueError: if an expectation could not be evaluated at all.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    # Great Expectations greets on stdout; a stage's stdout is not its place.
    with contextlib.redirect_stdout(io.StringIO()):
        outcomes = _run(suites, folder)
    if folder is not None:
        docs.clean(folder)
        docs.front_page(outcomes, suites, folder)
    return outcomes


def _context(folder: Path | None) -> Any:
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        analytics_enabled=False,
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    if folder is None:
        return context
    site: Any = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())},
    }
    context.add_data_docs_site(SITE, site)
    return context


def _run(suites: Sequence[Suite], folder: Path | None) -> list[Outcome]:
    import great_expectations as gx

    context = _context(folder)
    source = context.data_sources.add_pandas("derm-t2im")
    outcomes = []
    for suite in suites:
        asset = source.add_dataframe_asset(suite.name)
        batch = asset.add_batch_definition_whole_dataframe(suite.name)
        expected = gx.ExpectationSuite(name=suite.name)
        for number, rule in enumerate(suite.rules):
            make = getattr(gx.expectations, rule.expectation)
            # Severity only counts when it is given here, not as a default of a class.
            expected.add_expectation(
                make(
                    column=rule.column,
                    severity=rule.severity,
                    notes=f"{rule.severity}: {rule.words}",
                    meta={"rule": number},
                    **rule.arguments,
                )
            )
        checkpoint = gx.Checkpoint(
            name=suite.name,
            validation_definitions=[
                context.validation_definitions.add(
                    gx.ValidationDefinition(name=suite.name, data=batch, suite=context.suites.add(expected))
                )
            ],
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": ["image_id"],
                "partial_unexpected_count": 20,
                "return_unexpected_index_query": False,
            },
        )
        result = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": _plain(suite)},
            run_id=gx.RunIdentifier(run_name="validate", run_time=docs.RUN_TIME),
        )
        for found in next(iter(result.run_results.values())).results:
            outcomes.append(_outcome(suite, found))
    # Once for all: as an action of each checkpoint it would be built anew for every suite.
    if folder is not None:
        context.build_data_docs(site_names=[SITE])
    order = {suite.name: place for place, suite in enumerate(suites)}
    return sorted(outcomes, key=lambda o: (order[o.suite], _suite_of(suites, o.suite).rules.index(o.rule)))


def _suite_of(suites: Sequence[Suite], name: str) -> Suite:
    return next(suite for suite in suites if suite.name == name)


def _plain(suite: Suite) -> Any:
    """The columns that rules look at, in NumPy's types, which GX knows best."""
    table = suite.table[["image_id", *sorted({rule.column for rule in suite.rules} - {"image_id"})]]
    return table.astype({n: "float64" for n in table.columns if str(table[n].dtype) in ("Int32", "Int64")}).astype(
        {n: "object" for n in table.columns if str(table[n].dtype) in ("string", "str", "boolean")}
    )


def _outcome(suite: Suite, found: Any) -> Outcome:
    rule = suite.rules[found.expectation_config.meta["rule"]]
    error = next((e for e in (found.exception_info or {}).values() if isinstance(e, dict)), found.exception_info or {})
    if error.get("raised_exception"):
        text = " ".join(str(error.get("exception_message")).split())[:300]
        raise ValueError(f"{suite.name}: {rule.expectation} on {rule.column!r} could not be evaluated: {text}")
    result = found.result
    broken = [str(row["image_id"]) for row in result.get("partial_unexpected_index_list") or []][:EXAMPLES]
    values = result.get("partial_unexpected_list") or []
    examples = rule.behind[:EXAMPLES] if len(suite.table) == 1 else tuple(broken)
    return Outcome(
        suite=suite.name,
        rule=rule,
        passed=bool(found.success),
        broken=int(result.get("unexpected_count", 0)),
        rows=int(result.get("element_count", len(suite.table))),
        examples=examples,
        told=_told(suite, rule, examples),
        observed=_value(suite.table[rule.column].iloc[0] if len(suite.table) == 1 else next(iter(values), None)),
    )


def _told(suite: Suite, rule: Rule, ids: tuple[str, ...]) -> tuple[str, ...]:
    """What is wrong with each of these images: values of the columns that tell it; nothing where they have none."""
    rows = suite.table.drop_duplicates("image_id").set_index("image_id")
    said = []
    for name in ids:
        row: Any = rows.loc[name] if name in rows.index else {}
        values = {column: row.get(column) for column in rule.tell or (rule.column,)}
        said.append(", ".join(f"{k} {docs.value(v)}" for k, v in values.items() if not _missing(v)))
    return tuple(said)


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _value(value: Any) -> Any:
    if _missing(value):
        return None
    return value.item() if hasattr(value, "item") else value
