-- What every version of a collection stands on is fixed when it is made; the encoder's digest, when it is first used.
-- Its policy and its queue may change.

CREATE FUNCTION melo_keep_foundation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.name, NEW.model, NEW.model_digest, NEW.model_files, NEW."window", NEW.method, NEW.encoder,
        NEW.created_by, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.name, OLD.model, OLD.model_digest, OLD.model_files, OLD."window", OLD.method, OLD.encoder,
        OLD.created_by, OLD.created_at)
       OR (OLD.encoder_digest IS NOT NULL AND NEW.encoder_digest IS DISTINCT FROM OLD.encoder_digest) THEN
        RAISE EXCEPTION 'UPDATE on collections is refused: name, model, method and encoder are fixed'
            USING ERRCODE = 'restrict_violation', HINT = 'Create another collection.';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_foundation BEFORE UPDATE ON collections
    FOR EACH ROW EXECUTE FUNCTION melo_keep_foundation();
