-- Content may be erased, once, and never acts again; its digest stays.

-- The arguments are the columns that an erasure empties. The digests are not among them.
CREATE FUNCTION melo_only_erase_content() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.erased_at IS NOT NULL OR NEW.erased_at IS NULL
       OR to_jsonb(OLD) - 'erased_at' - TG_ARGV::text[] IS DISTINCT FROM to_jsonb(NEW) - 'erased_at' - TG_ARGV::text[]
    THEN
        RAISE EXCEPTION 'UPDATE on % is refused: the record only grows; content may be erased once, its digest stays',
            TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER only_erase_content BEFORE UPDATE ON edits
    FOR EACH ROW EXECUTE FUNCTION
    melo_only_erase_content(
        'prompt', 'target', 'alternatives', 'rephrases', 'unchanged', 'author', 'reason', 'source'
    );
CREATE TRIGGER only_erase_content BEFORE UPDATE ON points
    FOR EACH ROW EXECUTE FUNCTION melo_only_erase_content('key');
CREATE TRIGGER only_erase_content BEFORE UPDATE ON blocks
    FOR EACH ROW EXECUTE FUNCTION melo_only_erase_content('data');
CREATE TRIGGER only_erase_content BEFORE UPDATE ON clusters
    FOR EACH ROW WHEN (OLD.erased_at IS DISTINCT FROM NEW.erased_at)
    EXECUTE FUNCTION melo_only_erase_content('centre', 'label');

-- A rollback or a revert must not put to work again what was erased.
CREATE FUNCTION melo_require_unerased_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM edits WHERE id = NEW.edit_id AND erased_at IS NOT NULL) THEN
        RAISE EXCEPTION 'edit % was erased: it cannot act again', NEW.edit_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_unerased_edit BEFORE INSERT ON activations
    FOR EACH ROW EXECUTE FUNCTION melo_require_unerased_edit();

CREATE FUNCTION melo_require_unerased_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM edits JOIN activations ON activations.edit_id = edits.id
        WHERE edits.collection_id = NEW.collection_id AND edits.erased_at IS NOT NULL
          AND activations.valid @> NEW.content_version)
    THEN
        RAISE EXCEPTION 'version % of collection % would hold what was erased', NEW.number, NEW.collection_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_unerased_state BEFORE INSERT ON versions
    FOR EACH ROW EXECUTE FUNCTION melo_require_unerased_state();
