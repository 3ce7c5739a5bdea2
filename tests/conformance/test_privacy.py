"""Nothing personal on the wire: a whole exam through the real command, every message of it read (docs/wire.md).

The source's folder, its file and its tags are full of names. All that anybody publishes is heard: records plain and
packed, retained states, the will, receipts, commands and answers.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from edge_runtime.frames.phantom import parse_spec, render
from edge_runtime.sync.packing import pack
from tests.brokers import MOSQUITTO, Mosquitto
from tests.conformance.leaks import runs, secrets, shown, told
from tests.e2e.command import COMMAND, edge_runtime
from tests.faults.processes import kill, until
from tests.frames.dicom_files import dataset, region, write
from tests.parties.ear import Ear, Heard, records
from tests.real import DATA, needs_data

pytestmark = [pytest.mark.broker, pytest.mark.slow]  # processes, as a user starts them

HEADS = "fetal_head?hc_mm=250&frames=3&width=640&height=432"


def scan(path: Path) -> FileDataset:
    """An ultrasound cine of a head with a name burned in, and with every tag that names somebody, nested and private."""
    spec = parse_spec(HEADS)
    frames = np.stack([np.array(render(spec, index)[0]) for index in range(3)])
    for picture in frames:
        cv2.putText(picture, "ROE JANE 02.03.1987", (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    height, width = frames.shape[1:]
    request = Dataset()
    request.AccessionNumber, request.RequestedProcedureID = "ACC-5550123", "RP-5550124"
    request.RequestedProcedureDescription = "Follow-up for Mrs Roe"
    made = dataset(
        frames,
        SequenceOfUltrasoundRegions=[region(width, height, spec.pixel_mm / 10)],
        FrameTime="33.333",
        PatientName="Roe^Jane^Quimby^Dr",
        PatientID="PID-0099887",
        IssuerOfPatientID="County Hospital MRN",
        OtherPatientIDs="ALT-77120",
        PatientBirthDate="19870302",
        PatientSex="F",
        PatientAge="038Y",
        PatientWeight="71.25",
        PatientAddress="12 Alder Street, Springfield",
        PatientTelephoneNumbers="+1-555-0134-77",
        PatientComments="afraid of needles",
        AccessionNumber="ACC-5550123",
        StudyID="STU-4711",
        InstitutionName="Saint Elsewhere",
        InstitutionAddress="99 Hill Road",
        ReferringPhysicianName="Kildare^James",
        PerformingPhysicianName="Casey^Ben",
        OperatorsName="Houlihan^Margaret",
        StationName="ROOM-7B",
        DeviceSerialNumber="SN-66204518",
        Manufacturer="Acme Sonics",
        ManufacturerModelName="WaveMaker 9000",
        SoftwareVersions="V7.31.9",
        StudyDate="20190411",
        SeriesDate="20190412",
        ContentDate="20190413",
        AcquisitionDateTime="20190414101112.000000",
        StudyTime="081523",
        StudyDescription="Second trimester, twins?",
        SeriesDescription="left oblique sweep",
        ProtocolName="OB 2T fast",
        ImageComments="dictated by Kildare",
        StudyInstanceUID="1.2.826.0.1.3680043.8.498.77123456789",
        SeriesInstanceUID="1.2.826.0.1.3680043.8.498.77123456790",
        RequestAttributesSequence=[request],
    )
    private = made.private_block(0x0029, "ACME PRIVATE", create=True)
    private.add_new(0x01, "LO", "insured by Umbrella")
    private.add_new(0x02, "OB", b"\x00\x01Jane Roe\x00")
    private.add_new(0x03, "UL", 48151623)
    write(made, path)
    return made


@dataclass
class Exam:
    """What was heard of one exam, and what must not be in it."""

    file: FileDataset
    frames: list[NDArray[np.uint8]]
    state: Path
    heard: list[Heard]


def whole_exam(folder: Path, source: Path, model: str) -> Exam:
    """`run`, then `uplink` plain and packed with a consumer, a command or two, and a device that is killed."""
    state, store = folder / "state", folder / "cloud.db"
    done = edge_runtime(
        "run", "--model", model, "--source", f"dicom:{source}", "--state", state, "--json", cwd=folder
    )  # fmt: skip
    assert done.json["findings"] >= 1
    edge_runtime("mark", "last", "--urgent", "--state", state, cwd=folder)
    assert edge_runtime("command", "--new-key", folder / "operator.pem", cwd=folder).code == 0
    keys = next(folder.glob("*.pub.pem"))
    with Mosquitto(folder) as broker, Ear(broker.port) as ear:

        def uplink(*more: str) -> subprocess.Popen[bytes]:
            words = [
                "uplink",
                "--state",
                str(state),
                "--broker",
                broker.url,
                "--command-keys",
                str(keys),
                *more,
            ]
            return subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL)

        plain = uplink("--link", "normal")  # nobody gives a receipt: what is sent waits for the next
        ear.until(lambda heard: {"mask", "telemetry"} <= {one.kind for one in records(heard)})
        for command in (("send_state",), ("send_log", "--args", '{"lines": 200}')):
            device = records(ear.heard)[0].body["device_id"]
            asked = edge_runtime(
                "command", device, *command, "--broker", broker.url, "--key", folder / "operator.pem", cwd=folder
            )  # fmt: skip
            assert asked.code == 0, asked.err
        kill(plain)
        ear.until(lambda heard: any(one.kind == "state" and one.body["why"] == "lost" for one in heard))
        receive = subprocess.Popen(
            [*COMMAND, "receive", "--broker", broker.url, "--store", f"sqlite:///{store}"],
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: "$share/er/" in broker.log())  # else the first rows wait for a receipt's time
            packed = uplink("--link", "slow", "--once")
            assert packed.wait(120) == 0
        finally:
            kill(receive)
        ear.until(lambda heard: heard[-1].kind == "state" or any(_stopped(one) for one in heard))
        heard = list(ear.heard)
    file = pydicom.dcmread(source)
    pixels = np.atleast_3d(file.pixel_array) if file.get("NumberOfFrames") is None else file.pixel_array
    frames = [pixels[..., 0]] if file.get("NumberOfFrames") is None else list(pixels)
    return Exam(file, [np.asarray(frame) for frame in frames], state, heard)


def _stopped(one: Heard) -> bool:
    return one.kind == "state" and bool(one.body["why"] == "stopped")


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Exam:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    folder = tmp_path_factory.mktemp("exam")
    home = folder / "Roe Jane 1987-03-02"
    home.mkdir()
    path = home / "ROE^JANE ACC-5550123.dcm"
    scan(path)
    return whole_exam(folder, path, "fetal_head")


def everything_was_said(heard: list[Heard]) -> None:
    """Else a test that finds nothing proves nothing."""
    kinds = {one.kind for one in heard}
    assert {"finding", "event", "mask", "telemetry", "audit", "state", "rcpt", "rsp", "send_log"} <= kinds
    assert {"encoding" in one.user for one in records(heard, "finding")} == {True, False}
    assert {"encoding" in one.user for one in records(heard, "mask")} == {True, False}
    whys = {one.body["why"] for one in heard if one.kind == "state"}
    assert whys >= {"connected", "lost"}


def test_er_priv_1_no_value_of_any_tag_is_in_any_message(exam: Exam) -> None:
    everything_was_said(exam.heard)
    hidden = secrets(exam.file)
    assert len(hidden) > 60
    assert told(exam.heard, hidden) == set()
    names = ["roe^jane", "roe jane", "acc-5550123", ".dcm", str(exam.state.parent).lower()]
    for one in exam.heard:
        text = (one.topic.encode() + one.plain + repr(one.properties).encode()).lower()
        assert not [name for name in names if name.encode() in text]


def test_er_priv_2_no_run_of_pixels_is_in_any_message(exam: Exam) -> None:
    pixels = runs(exam.frames)
    assert len(pixels) > 100_000
    assert shown(exam.heard, pixels) == []


def test_er_priv_3_study_and_exam_are_pseudonyms_under_a_key_that_never_leaves(exam: Exam) -> None:
    key = (exam.state / "site.key").read_bytes()
    study = str(exam.file.StudyInstanceUID)

    def pseudonym(text: str) -> str:
        return hmac.new(key, b"pseudonym\0" + text.encode(), hashlib.sha256).hexdigest()[:24]

    for one in records(exam.heard, "finding"):
        assert one.body["source"]["study_uid_pseudonym"] == pseudonym(study)
        assert one.body["exam_id"] == f"study-{pseudonym('study:' + study)}"
    key_id = hmac.new(key, b"site-key-id", hashlib.sha256).hexdigest()[:8]
    assert {one.body["site_key_id"] for one in exam.heard if one.kind == "state"} == {key_id}
    spellings = [key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)]
    for one in exam.heard:
        whole = one.payload + one.plain + repr(one.properties).encode() + one.topic.encode()
        assert not [spelling for spelling in spellings if spelling.rstrip(b"=") in whole]


@needs_data
@pytest.mark.parametrize(
    ("name", "model"), [("dx_thorax_small.dcm", "lungs"), ("us_sonosite_30f.dcm", "fetal_head")]
)
def test_nothing_of_a_real_file_is_in_any_message(tmp_path: Path, name: str, model: str) -> None:
    real = whole_exam(tmp_path, DATA / "dicom" / name, model)
    everything_was_said(real.heard)
    assert told(real.heard, secrets(real.file)) == set()
    assert shown(real.heard, runs(real.frames)) == []


# ---------------------------------------------------------------- the reader itself


@pytest.fixture(scope="module")
def clean(exam: Exam) -> Heard:
    return next(one for one in exam.heard if one.kind == "finding" and "encoding" not in one.user)


@pytest.mark.parametrize(
    "leak",
    [
        {"operator": "Margaret Houlihan"},
        {"note": "born 1987-03-02"},
        {"note": "born 19870302"},
        {"at": "08:15:23"},
        {"deep": [{"er": {"accession": "acc-5550123"}}]},
        {"weight": 71.25},
        {"number": 48151623},
        {"payer": "Insured by UMBRELLA"},
        {"raw": b"\x00\x01Jane Roe\x00".hex()},
        {"who": "seen by Casey"},
        {"uid": "1.2.826.0.1.3680043.8.498.77123456789"},
        {"PID-0099887": True},
        {"model": "Acme Sonics WaveMaker 9000"},
    ],
)
def test_a_value_of_a_tag_in_a_message_is_found(exam: Exam, clean: Heard, leak: dict[str, Any]) -> None:
    hidden = secrets(exam.file)
    assert told([clean], hidden) == set()
    body = json.dumps({**clean.body, **leak}).encode()
    assert told([replace(clean, payload=body)], hidden)
    packed = {**clean.properties, "UserProperty": [("encoding", "zd1")]}
    assert told([replace(clean, payload=pack(body), properties=packed)], hidden)


def test_a_value_in_a_topic_or_a_property_is_found(exam: Exam, clean: Heard) -> None:
    hidden = secrets(exam.file)
    assert told([replace(clean, topic=f"{clean.topic}/PID-0099887")], hidden)
    assert told([replace(clean, properties={"UserProperty": [("who", "Roe")]})], hidden)
    assert told([replace(clean, properties={"CorrelationData": b"ALT-77120"})], hidden)


@pytest.mark.parametrize("form", ["bytes", "base64", "hex", "list", "packed"])
def test_a_run_of_pixels_in_a_message_is_found(exam: Exam, clean: Heard, form: str) -> None:
    pixels = runs(exam.frames)
    height, width = exam.frames[0].shape
    run = exam.frames[1][height // 2, width // 3 : width // 3 + 24].tobytes()
    said = {
        "bytes": b'{"x": "' + run + b'"}',
        "base64": b'{"x": "' + base64.b64encode(run) + b'"}',
        "hex": b'{"x": "' + run.hex().encode() + b'"}',
        "list": json.dumps({"x": list(run)}).encode(),
        "packed": pack(json.dumps({"x": list(run)}).encode()),
    }[form]
    more = {"UserProperty": [("encoding", "zd1")]} if form == "packed" else {}
    assert shown([clean], pixels) == []
    assert shown([replace(clean, payload=said, properties=more)], pixels) == [clean.topic]
