-- The record only grows: its rows are never deleted, and most are never changed. Where a table's rows may change in
-- some way, triggers of its own subject say in which.

CREATE FUNCTION melo_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the record only grows', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON calibrations
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON block_edits
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON versions
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON registry_identity
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON api_key_roles
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();

CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON collections
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON batches
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON edits
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON jobs
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON blocks
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON points
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON clusters
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON activations
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON aliases
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON webhooks
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE OR TRUNCATE ON webhook_deliveries
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();

-- Neither is part of the record: an answer is deleted when it is a day old, and a protection when it is taken away.
CREATE TRIGGER refuse_update BEFORE UPDATE ON idempotency_keys
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON alias_protections
    FOR EACH STATEMENT EXECUTE FUNCTION melo_refuse_change();
