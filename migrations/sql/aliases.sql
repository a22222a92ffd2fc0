-- Where an alias pointed stays: it is replaced by another row, once.

CREATE FUNCTION melo_only_replace_alias() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.replaced_at IS NOT NULL OR NEW.replaced_at IS NULL THEN
        RAISE EXCEPTION 'UPDATE on aliases is refused: an alias is only ever replaced, once'
            USING ERRCODE = 'restrict_violation';
    END IF;
    OLD.replaced_at := NEW.replaced_at;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on aliases is refused: where an alias pointed stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER only_replace_alias BEFORE UPDATE ON aliases
    FOR EACH ROW EXECUTE FUNCTION melo_only_replace_alias();
