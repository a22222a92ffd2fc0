-- Versions follow each other without gaps, and the states that they show never change.
--
-- PostgreSQL fires the triggers of a row in the order of their names: on versions, require_next_version comes before
-- require_restored_state and require_unerased_state, which rely on the lock that it takes.

-- Numbers follow each other: the collection's row is locked, so writers take turns. (NO KEY: rows that refer to the
-- collection may be written meanwhile.) What was newest at a moment can be told only if time goes with the numbers.
CREATE FUNCTION melo_require_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last versions%ROWTYPE;
BEGIN
    PERFORM 1 FROM collections WHERE id = NEW.collection_id FOR NO KEY UPDATE;
    SELECT * INTO last FROM versions WHERE collection_id = NEW.collection_id ORDER BY number DESC LIMIT 1;
    IF NEW.number <> coalesce(last.number, 0) + 1 OR NEW.parent_id IS DISTINCT FROM last.id THEN
        RAISE EXCEPTION 'version % of collection % does not follow version %',
            NEW.number, NEW.collection_id, coalesce(last.number, 0) USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.created_at < last.created_at THEN
        RAISE EXCEPTION 'version % of collection % is older than the version before it',
            NEW.number, NEW.collection_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_next_version BEFORE INSERT ON versions
    FOR EACH ROW EXECUTE FUNCTION melo_require_next_version();

-- A rollback shows the state that the version shows which it restores.
CREATE FUNCTION melo_require_restored_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE restored versions%ROWTYPE;
BEGIN
    SELECT * INTO restored FROM versions WHERE collection_id = NEW.collection_id AND number = NEW.restores;
    IF NEW.restores <> 0 AND restored.id IS NULL OR NEW.content_version <> coalesce(restored.content_version, 0)
       OR NEW.content_digest <> coalesce(restored.content_digest, NEW.content_digest)
       OR NEW.content_state <> coalesce(restored.content_state, NEW.content_state) THEN
        RAISE EXCEPTION 'version % of collection % does not show what version % shows',
            NEW.number, NEW.collection_id, NEW.restores USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_restored_state BEFORE INSERT ON versions
    FOR EACH ROW WHEN (NEW.kind = 'rollback') EXECUTE FUNCTION melo_require_restored_state();

-- A state's range may be closed once; everything else about it stays.
CREATE FUNCTION melo_only_close_range() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT upper_inf(OLD.valid) OR upper_inf(NEW.valid) OR lower(NEW.valid) <> lower(OLD.valid) THEN
        RAISE EXCEPTION 'UPDATE on % is refused: only the open end of a state''s range may be closed, once',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    OLD.valid := NEW.valid;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on % is refused: a state never changes, it is followed by another',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER only_close_range BEFORE UPDATE ON activations
    FOR EACH ROW EXECUTE FUNCTION melo_only_close_range();
CREATE TRIGGER only_close_range BEFORE UPDATE ON clusters
    FOR EACH ROW WHEN (OLD.erased_at IS NOT DISTINCT FROM NEW.erased_at) EXECUTE FUNCTION melo_only_close_range();
