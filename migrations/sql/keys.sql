-- A key's rights never change and a revoked key never comes back: whoever wants others makes another key.

CREATE FUNCTION melo_only_use_or_revoke_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NULL THEN
        OLD.revoked_at := NEW.revoked_at;
        OLD.revoked_by := NEW.revoked_by;
    END IF;
    OLD.last_used_at := NEW.last_used_at;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on api_keys is refused: a key is only ever used and, once, revoked'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER only_use_or_revoke_key BEFORE UPDATE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION melo_only_use_or_revoke_key();
