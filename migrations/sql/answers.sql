-- The log of answers and the feedback on them are deleted when they are old; until then they say what they said.

CREATE TRIGGER only_erase_content BEFORE UPDATE ON answers
    FOR EACH ROW EXECUTE FUNCTION melo_only_erase_content('question', 'answer', 'asked_by');

CREATE FUNCTION melo_keep_feedback() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.batch_id IS NULL AND OLD.erased_at IS NULL THEN
        OLD.batch_id := NEW.batch_id;
    END IF;
    IF OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL THEN
        OLD.comment := NEW.comment;
        OLD.correction := NEW.correction;
        OLD.prompt := NEW.prompt;
        OLD.given_by := NEW.given_by;
        OLD.erased_at := NEW.erased_at;
    END IF;
    IF OLD IS DISTINCT FROM NEW THEN
        RAISE EXCEPTION 'UPDATE on feedback is refused: it becomes a batch once, and its text may be erased once'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_feedback BEFORE UPDATE ON feedback
    FOR EACH ROW EXECUTE FUNCTION melo_keep_feedback();
