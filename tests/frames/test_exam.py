"""Which exam a frame belongs to."""

from __future__ import annotations

from edge_runtime.codes import SourceKind
from edge_runtime.frames.exam import ExamTracker
from edge_runtime.types import Origin


def origin(study: str | None = None, subject: str | None = None) -> Origin:
    return Origin(SourceKind.DICOM, "x", study_uid=study, subject=subject)


def tracker(exam_id: str | None = None) -> ExamTracker:
    return ExamTracker(exam_id, lambda text: f"p{sum(text.encode())}")


def test_without_a_name_the_whole_run_is_one_exam_of_its_own() -> None:
    exams = tracker()
    opened = exams.enter(origin())
    assert not exams.would_change(origin())
    assert exams.leave() == opened
    assert exams.leave() is None and exams.open_exam is None
    assert tracker().enter(origin()) != opened


def test_a_given_id_holds_for_every_frame_as_it_was_given() -> None:
    exams = tracker("A7")
    assert exams.enter(origin("1.2")) == "A7"
    assert not exams.would_change(origin("1.3"))
    assert not exams.would_change(origin(subject="x"))


def test_a_new_study_is_another_exam() -> None:
    exams = tracker()
    first = exams.enter(origin("1.2.3"))
    assert not exams.would_change(origin("1.2.3"))
    assert exams.would_change(origin("1.2.9"))
    assert exams.leave() == first
    assert exams.enter(origin("1.2.9")) != first


def test_an_exam_that_was_left_opens_with_the_next_frame() -> None:
    exams = tracker()
    frame = origin("1.2.3")
    exams.enter(frame)
    exams.leave()
    assert exams.would_change(frame)


def test_a_subject_who_returns_comes_back_to_the_same_exam() -> None:
    exams = tracker()
    ids = [exams.enter(origin(subject=name)) for name in ("anna", "berta", "anna")]
    assert ids[0] == ids[2] != ids[1]


def test_a_study_and_a_subject_of_the_same_text_are_two_exams() -> None:
    exams = tracker()
    assert exams.enter(origin("7")) != exams.enter(origin(subject="7"))


def test_no_study_or_subject_shows_in_an_id() -> None:
    exams = tracker()
    assert "1.2.3" not in exams.enter(origin("1.2.3"))
    assert "anna" not in exams.enter(origin(subject="anna"))
