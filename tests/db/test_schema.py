"""Upstream's tables as its facts say, on each database; ours beside them; made in one way or the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, Boolean, DateTime, Engine, Float, Integer, LargeBinary, inspect, select, text
from sqlalchemy.types import String, Text, TypeEngine

from octavia_core.db import schema
from octavia_core.db.engine import make_engine
from octavia_core.db.tables import OWN, UPSTREAM, metadata
from octavia_core.db.tables.seeds import UPSTREAM_REVISION
from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Database

FACTS = yaml.safe_load((Path(__file__).parent / "data/upstream_schema.yaml").read_text(encoding="utf-8"))
LOOKUPS = FACTS["lookups"]


def described() -> dict[str, Any]:
    """Every table of the facts, lookups too, in one form."""
    tables = {
        name: {
            "columns": {column: fact.split(" ", 1) for column, fact in table["columns"].items()},
            "primary_key": table["primary_key"],
            "references": table.get("references", {}),
            "unique": table.get("unique", {}),
            "indexes": table.get("indexes", {}),
        }
        for name, table in FACTS["tables"].items()
    }
    for name, lookup in LOOKUPS.items():
        columns = {"name": [lookup["type"], "not null"]}
        if name != "client_authentication_mode":
            columns["description"] = ["VARCHAR(255)"]
        tables[name] = {"columns": columns, "primary_key": ["name"], "references": {}, "unique": {}, "indexes": {}}
    return tables


def word(kind: TypeEngine[Any]) -> str:
    """A type in the words of the facts."""
    if isinstance(kind, Text):
        return "TEXT"
    if isinstance(kind, String):
        return f"VARCHAR({kind.length})"
    for python, name in (
        (Boolean, "BOOL"),
        (BigInteger, "BIGINT"),
        (Integer, "INT"),
        (DateTime, "DATETIME"),
        (Float, "FLOAT"),
        (LargeBinary, "BLOB"),
    ):
        if isinstance(kind, python):
            return name
    return str(kind)


def test_our_definitions_have_upstreams_tables_and_no_other():
    assert {table.name for table in UPSTREAM} == set(described())
    assert all(table.name.startswith("oc_") for table in OWN)


@pytest.mark.parametrize("name", sorted(described()))
def test_a_table_is_defined_as_upstream_has_it(name):
    fact, table = described()[name], metadata.tables[name]
    found = {}
    for column in table.columns:
        rest = [] if column.nullable else ["not null"]
        if column.server_default is not None:
            argument = column.server_default.arg
            rest.append(f"default {DEFAULTS.get(str(argument), argument)}")
        found[column.name] = [word(column.type), *([" ".join(rest)] if rest else [])]
    assert found == fact["columns"]
    assert list(found) == list(fact["columns"]), "the order of columns"
    assert [column.name for column in table.primary_key] == fact["primary_key"]
    assert {key.constraint.name: f"{key.parent.name} -> {key.target_fullname}" for key in table.foreign_keys} == fact[
        "references"
    ]
    assert {index.name: [column.name for column in index.columns] for index in table.indexes} == fact["indexes"]
    uniques = {
        constraint.name: [column.name for column in constraint.columns]
        for constraint in table.constraints
        if constraint.__visit_name__ == "unique_constraint"
    }
    assert uniques == fact["unique"]


DEFAULTS = {"false": "0", "true": "1", "CURRENT_TIMESTAMP": "current_timestamp()"}


@pytest.fixture
def engine(database_url):
    made = make_engine(Database(connection=Secret(database_url)))
    yield made
    made.dispose()


def snapshot(engine: Engine) -> dict[str, Any]:
    """What a database says about its tables, in a form that can be compared."""
    inspector = inspect(engine)
    found = {}
    for name in inspector.get_table_names():
        keys = inspector.get_foreign_keys(name)
        found[name] = {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], None if c["default"] is None else str(c["default"]))
                for c in inspector.get_columns(name)
            ],
            "primary_key": inspector.get_pk_constraint(name)["constrained_columns"],
            "references": sorted(
                (k["name"], tuple(k["constrained_columns"]), k["referred_table"], tuple(k["referred_columns"]))
                for k in keys
            ),
            "unique": sorted((u["name"], tuple(u["column_names"])) for u in inspector.get_unique_constraints(name)),
            "indexes": sorted(
                (i["name"], tuple(i["column_names"])) for i in inspector.get_indexes(name) if not i["unique"]
            ),
        }
    return found


def rows_of_lookups(engine: Engine) -> dict[str, set[str]]:
    with engine.connect() as connection:
        return {name: set(connection.scalars(select(metadata.tables[name].c.name))) for name in LOOKUPS}


def test_a_database_made_by_migrations_is_what_the_facts_say(engine, database_url):
    schema.upgrade(database_url)
    found, dialect = snapshot(engine), engine.dialect.name
    for name, fact in described().items():
        table = found[name]
        assert [column[0] for column in table["columns"]] == list(fact["columns"]), name
        assert table["primary_key"] == fact["primary_key"], name
        assert {key: f"{of[0]} -> {target}.{to[0]}" for key, of, target, to in table["references"]} == fact[
            "references"
        ], name
        assert dict(table["unique"]) == {key: tuple(columns) for key, columns in fact["unique"].items()}, name
        assert dict(table["indexes"]) == {key: tuple(columns) for key, columns in fact["indexes"].items()}, name
        for column, (about, *rest) in zip(table["columns"], fact["columns"].values(), strict=True):
            assert column[2] == ("not null" not in " ".join(rest)), (name, column)
            if dialect == "mysql":
                assert column[1].split(" COLLATE")[0].replace("TINYINT(1)", "BOOL").replace("TINYINT", "BOOL").replace(
                    "INTEGER", "INT"
                ) in (about, about.replace("INT", "INT(11)")), (name, column)
                default = " ".join(rest).partition("default ")[2] or None
                assert (column[3] or "").strip("'") == (default or ""), (name, column)
    assert rows_of_lookups(engine) == {name: set(lookup["words"]) for name, lookup in LOOKUPS.items()}
    with engine.connect() as connection:
        for name, row in FACTS["seeds"].items():
            table = metadata.tables[name]
            assert dict(connection.execute(select(*(table.c[key] for key in row))).mappings().one()) == row
        assert connection.scalar(select(metadata.tables["alembic_version"].c.version_num)) == FACTS["revision"]
        assert connection.execute(select(metadata.tables["spares_pool"])).one()


def test_the_quick_way_and_the_migrations_make_the_same(engine, database_url, tmp_path):
    schema.upgrade(database_url)
    migrated, lookups = snapshot(engine), rows_of_lookups(engine)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))
    schema.create(engine)
    assert snapshot(engine) == migrated
    assert rows_of_lookups(engine) == lookups
    schema.check(engine)


def test_migrations_go_up_down_and_up_again_and_upstreams_tables_stay(engine, database_url):
    schema.upgrade(database_url)
    everything = snapshot(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO quotas (project_id) VALUES ('kept')"))
    schema.downgrade(database_url)
    left = snapshot(engine)
    assert set(left) == {table.name for table in UPSTREAM} | {schema.VERSION_TABLE}
    schema.upgrade(database_url)
    assert snapshot(engine) == everything
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT project_id FROM quotas")) == "kept"


def test_upgrading_twice_changes_nothing(engine, database_url):
    schema.upgrade(database_url)
    before = snapshot(engine)
    schema.upgrade(database_url)
    schema.prepare(Database(connection=Secret(database_url)))
    assert snapshot(engine) == before


def test_where_upstreams_tables_are_only_ours_are_added(engine, database_url):
    metadata.create_all(engine, tables=UPSTREAM)
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO alembic_version VALUES ('{UPSTREAM_REVISION}')"))
    schema.upgrade(database_url)
    assert set(snapshot(engine)) == set(metadata.tables) | {schema.VERSION_TABLE}
    assert rows_of_lookups(engine) == {name: set() for name in LOOKUPS}, "upstream's rows are upstream's business"
    schema.check(engine)


def test_an_upstream_of_another_release_is_refused(engine, database_url):
    metadata.create_all(engine, tables=UPSTREAM)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO alembic_version VALUES ('35dee79d5865')"))
    with pytest.raises(ConfigurationError, match=r"35dee79d5865.*octavia-db-manage upgrade head"):
        schema.upgrade(database_url)


def test_what_an_interrupted_upgrade_left_is_completed(engine, database_url):
    some = [table for table in UPSTREAM if table.name in ("provisioning_status", "operating_status", "lb_topology")]
    metadata.create_all(engine, tables=some)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO lb_topology (name) VALUES ('SINGLE')"))
    schema.upgrade(database_url)
    assert rows_of_lookups(engine) == {name: set(lookup["words"]) for name, lookup in LOOKUPS.items()}


def test_an_empty_database_is_refused_in_one_sentence(engine):
    with pytest.raises(ConfigurationError, match="no tables yet; run: octavia-admin db upgrade"):
        schema.check(engine)


def test_a_newer_schema_is_refused_in_one_sentence(engine, database_url):
    schema.upgrade(database_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = 'oc9999'"))
    for refused in (
        lambda: schema.check(engine),
        lambda: schema.upgrade(database_url),
        lambda: schema.prepare(Database(connection=Secret(database_url))),
    ):
        with pytest.raises(ConfigurationError, match=r"newer version of octavia-core \(revision oc9999"):
            refused()


def test_revisions_known_to_the_program_are_those_in_the_package():
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(revisions)) == schema.KNOWN


def test_a_missing_file_is_not_created_by_looking(tmp_path):
    engine = make_engine(Database(connection=Secret(f"sqlite:///{tmp_path}/none.db")))
    with pytest.raises(ConfigurationError, match="no tables yet"):
        schema.check(engine)
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "octavia.db"
    schema.prepare(Database(connection=Secret(f"sqlite:///{path}")))
    assert path.stat().st_mode & 0o777 == 0o600
