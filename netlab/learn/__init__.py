"""What the lessons of notebooks/ use: a cluster to try things on, and a trace that shows itself as text and as the page.

    room = classroom("canal.yaml", add=POLICY)    told = room.trace("web-0", "svc/api")    told.text, told.verdict, told.page()

Law: nothing is prepared: what a lesson shows was traced when it ran.
"""

from netlab.learn.classroom import Classroom, Told, classroom
from netlab.learn.questions import marked, opinion

__all__ = ["Classroom", "Told", "classroom", "marked", "opinion"]
