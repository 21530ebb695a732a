-- Version 1 of the schema of a store. "{schema}" stands for its name.

CREATE TABLE "{schema}".store (version int NOT NULL);
CREATE UNIQUE INDEX one_store ON "{schema}".store ((true));
INSERT INTO "{schema}".store VALUES (1);

-- Tokens, in the order of the claims, so without a cache: a session that held numbers back would
-- hand out a smaller one later.
CREATE SEQUENCE "{schema}".token AS bigint CACHE 1;

-- The time of the store, and the only reading of a clock: when the server received the statement.
-- One expression, so that the planner puts it where it is called.
CREATE FUNCTION "{schema}".now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN pg_catalog.statement_timestamp();

-- One row a scope: who runs it, or what it left.
CREATE TABLE "{schema}".claim (
    token        bigint      NOT NULL,
    claimed_at   timestamptz NOT NULL,
    -- From this instant on a running attempt is an orphan.
    lease_until  timestamptz NOT NULL,
    -- From this instant on the row is as if it were not there.
    expires_at   timestamptz NOT NULL,
    completed_at timestamptz,
    generation   int         NOT NULL,
    attempt      int         NOT NULL,
    -- 0: running, until its lease is over. 1: completed by its attempt. 2: given up.
    -- 3: completed by an operator.
    state        smallint    NOT NULL,
    -- Why the attempt before this one ended. 0: its lease was over. 2: it was given up.
    cause        smallint,
    operation    uuid        NOT NULL,
    fingerprint  uuid        NOT NULL,
    -- BLAKE3 of the four fields of the scope, and these, length-prefixed.
    digest       bytea       NOT NULL,
    scope        bytea       NOT NULL,
    checkpoint   bytea,
    -- Null until it completed, and where the response was left out.
    body         bytea,
    CONSTRAINT rows_lie_in_generations CHECK (false) NO INHERIT
);

-- A generation is a partition: a table that inherits, with the claims of one stretch of time. One
-- is open, which alone takes claims. Whole ones are dropped. By inheritance, since a declared
-- partition makes every INSERT and UPDATE that names it build and check its bound once more, and
-- is dropped under a lock of the whole table.
CREATE TABLE "{schema}".generation (
    generation int         PRIMARY KEY,
    opened_at  timestamptz NOT NULL,
    closed_at  timestamptz
);
CREATE UNIQUE INDEX one_open ON "{schema}".generation ((true)) WHERE closed_at IS NULL;

CREATE FUNCTION "{schema}".refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'generation % is closed', TG_TABLE_NAME USING ERRCODE = 'OL001';
END $$;

-- Opens the generation after p_seen, and closes that one; nothing where it is not the open one.
--
-- Uniqueness rests on this: the trigger's lock is granted once every transaction that wrote to the
-- closing generation has ended, and is held until the commit that makes the next one known. So
-- whoever inserts into the next one has a snapshot with every row that the closed one will ever
-- be given, and sees the scope there if it is claimed; who comes late is refused by the trigger.
CREATE FUNCTION "{schema}".rotate(p_seen int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    opened int;
    next int := coalesce(p_seen, 0) + 1;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('{schema}.rotate', 0));
    SELECT generation INTO opened FROM "{schema}".generation WHERE closed_at IS NULL;
    IF opened IS DISTINCT FROM p_seen THEN
        RETURN false;
    END IF;
    EXECUTE pg_catalog.format(
        'CREATE TABLE "{schema}".claim_%s () INHERITS ("{schema}".claim)
            WITH (fillfactor = 90)', next);
    EXECUTE pg_catalog.format(
        'CREATE UNIQUE INDEX ON "{schema}".claim_%s (digest)', next);
    IF opened IS NOT NULL THEN
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER closed BEFORE INSERT ON "{schema}".claim_%s
                FOR EACH STATEMENT EXECUTE FUNCTION "{schema}".refuse()', opened);
        UPDATE "{schema}".generation SET closed_at = "{schema}".now() WHERE generation = opened;
    END IF;
    INSERT INTO "{schema}".generation VALUES (next, "{schema}".now());
    RETURN true;
END $$;
