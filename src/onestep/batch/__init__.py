"""Many pictures, wherever they are done.

A ``Manifest`` says how each is done and can be sent to another machine; a ``Worker`` does it there; an engine
(``local``, ``ray_engine``) decides who does which ``Item``, and yields an ``Outcome`` for each. Results and
the journal lie in one folder, so a batch that one engine began is continued by another.
"""
