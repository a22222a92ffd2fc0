"""What people say of answers: thumbs up or down, and corrections that become drafts."""
