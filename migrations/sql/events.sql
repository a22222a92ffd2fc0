-- Events form one chain. The lock's key is an arbitrary constant of this program; see registry.audit.repository.

CREATE FUNCTION melo_require_next_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last audit_events%ROWTYPE;
BEGIN
    PERFORM pg_advisory_xact_lock(7026368401);
    SELECT * INTO last FROM audit_events ORDER BY seq DESC LIMIT 1;
    IF NEW.seq <> coalesce(last.seq, 0) + 1 OR NEW.previous_hash <> coalesce(last.hash, repeat('0', 64)) THEN
        RAISE EXCEPTION 'audit event % does not follow event %', NEW.seq, coalesce(last.seq, 0)
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_next_event BEFORE INSERT ON audit_events
    FOR EACH ROW EXECUTE FUNCTION melo_require_next_event();

-- Every change of state has its event, so whoever follows one (an alias, an erasure) listens to this alone.
CREATE FUNCTION melo_notify_of_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('melo_events', '');
    RETURN NULL;
END $$;

CREATE TRIGGER notify_of_events AFTER INSERT ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION melo_notify_of_events();
