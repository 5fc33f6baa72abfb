"""The page in a real browser, without a window."""

import base64
import io
import itertools
import os
import shutil
import time

import pytest
import requests
from films import damaged_film, grey_film
from live_server import TWIN_LABELS, encoded, free_port, serving, wait_until

from serving.sources import DemoSource, create_source

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver; apt-get install chromium chromium-driver"
)
#: Where pictures of the page go, for people to look at; nowhere by default.
PICTURES = os.environ.get("FER_TEST_SCREENSHOTS")


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory):
    """What the browser's own camera sees: two people of the demo, as MJPEG."""
    demo = DemoSource(cast=DemoSource.CAST[:2], size_wh=(640, 480))
    path = tmp_path_factory.mktemp("film") / "film.mjpeg"
    path.write_bytes(b"".join(encoded(demo.picture(1 + number / 15), "JPEG") for number in range(20)))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory, camera_film):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera_film}",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        "--window-size=1280,1100",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


def by_id(browser, name):
    return browser.find_element("id", name)


def message(browser):
    """What the panel that is seen says."""
    found = "[...document.querySelectorAll('.message')].find((each) => each.offsetParent)"
    return browser.execute_script(f"return {found}?.innerText ?? ''")


def picture(browser, name):
    if PICTURES:
        browser.save_screenshot(os.path.join(PICTURES, f"{name}.png"))


def dark(browser, on):
    features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def size(browser, width, height, phone=False):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def page(browser, server):
    """The page, fresh; no test may leave an error in the console."""
    browser.get_log("browser")
    size(browser, 1280, 1100)
    dark(browser, False)
    browser.get("about:blank")
    browser.get(server.url)
    yield browser
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors, errors


def press(browser, name):
    """Click a button once it does something: Pause and Snapshot wait for a picture."""
    wait_until(lambda: by_id(browser, name).get_attribute("aria-disabled") != "true")
    by_id(browser, name).click()


def people(browser, box="people"):
    return browser.execute_script(f"return [...document.querySelectorAll('#{box} .person h3')].map(each => each.innerText)")


def changed_colours(browser):
    """How many of some pixels of the picture have the saturated colours of boxes."""
    return browser.execute_script("""
        const img = document.getElementById("picture");
        const canvas = document.createElement("canvas");
        canvas.width = img.naturalWidth; canvas.height = img.naturalHeight;
        const pen = canvas.getContext("2d");
        pen.drawImage(img, 0, 0);
        return [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
    """)


def chart(browser):
    """From now on the page's `chart` is the chart of the stream, once it gets a point."""
    browser.execute_async_script("""
        const done = arguments[0];
        import("/static/chart.js").then(({ Timeline }) => {
            const add = Timeline.prototype.add;
            Timeline.prototype.add = function (...point) {
                window.chart = this;
                add.apply(this, point);
            };
            done();
        });
    """)


def drawn_points(browser):
    """For each point of the chart, whether it has values."""
    return browser.execute_script("return window.chart ? chart.points.map((point) => Boolean(point.values)) : []")


def canvas(browser, name):
    """What is drawn on a canvas: uint8 (h, w, 4)."""
    import numpy as np
    from PIL import Image

    url = browser.execute_script("return document.getElementById(arguments[0]).toDataURL()", name)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def test_the_stream_is_seen_with_its_boxes_people_and_numbers(page, server):
    import numpy as np

    wait_until(lambda: 3 <= len(people(page)) <= 5, 30)
    wait_until(lambda: float(by_id(page, "fact-fps").text) > 0)
    assert by_id(page, "fact-state").text == "live"
    width = page.execute_script("return document.getElementById('picture').naturalWidth")
    assert width == 640
    # Boxes: along the edges of a face's box, the picture has the flat colour of its label.
    palette = requests.get(server.url + "/api/models", timeout=10).json()["models"][0]["colours"]
    colours = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in [*palette, "#7f8791"]]

    def boxed():
        pixels = np.array(changed_colours(page), np.uint8).reshape(480, 640, 4)[:, :, :3].astype(int)
        return sum(int((np.abs(pixels - colour).max(axis=2) < 24).sum()) for colour in colours)

    wait_until(lambda: boxed() > 1500, 10)
    assert len(page.find_elements("css selector", "#legend li")) == 8
    assert people(page)[0].split(":")[0].isdigit()
    time.sleep(3)  # some of the chart
    drawn = page.execute_script("""
        const canvas = document.getElementById("timeline");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
        return count;
    """)
    assert drawn > 1000
    picture(page, "stream-light")
    dark(page, True)
    picture(page, "stream-dark")


def test_the_model_is_switched_from_the_page(page, server):
    from selenium.webdriver.support.ui import Select

    wait_until(lambda: people(page), 30)
    Select(by_id(page, "model")).select_by_value("twin")
    try:
        wait_until(lambda: "Now with twin." in message(page))
        words = {*TWIN_LABELS, "uncertain"}
        wait_until(lambda: (seen := people(page)) and all(each.split(": ")[1].split("\n")[0] in words for each in seen))
        assert by_id(page, "legend").text.split("\n") == TWIN_LABELS
    finally:
        requests.post(server.url + "/api/stream/settings", json={"model": "ferplus-cnn"}, timeout=20)
    # the value in one question: asked option by option, none is selected where the page changes it in between
    wait_until(lambda: by_id(page, "model").get_property("value") == "ferplus-cnn")


def test_pause_keeps_the_picture_and_ends_the_connections(page, server):
    stream = server.engine.streams["demo"]
    chart(page)
    wait_until(lambda: sum(drawn_points(page)) > 1, 30)
    press(page, "pause")
    wait_until(lambda: stream.status()["viewers"] == stream.status()["listeners"] == 0)
    assert by_id(page, "still").is_displayed() and not by_id(page, "picture").is_displayed()
    assert by_id(page, "pause").text == "Go on" and by_id(page, "pause").get_attribute("aria-pressed") is None
    before = drawn_points(page)
    assert not before[-1]  # what comes is not joined to what was
    by_id(page, "pause").click()
    wait_until(lambda: stream.status()["viewers"] == 1)
    wait_until(lambda: sum(drawn_points(page)) > sum(before))
    times = page.execute_script("""
        for (const timeS of [1e9, 1e9 + 1, 1e9 + 0.5]) chart.add(timeS, [0]);
        return chart.points.map((point) => point.timeS);
    """)
    assert times == [1e9, 1e9 + 0.5]  # a clock that began anew


def test_a_paused_page_shows_that_somebody_else_records_and_watches_nothing_for_it(page, server):
    stream = server.engine.streams["demo"]
    wait_until(lambda: people(page), 30)
    press(page, "pause")
    wait_until(lambda: stream.status()["state"] == "idle")
    time.sleep(3)  # in which it asks
    assert stream.status()["state"] == "idle"
    for on, said in ((True, "Stop recording"), (False, "Record results")):
        requests.post(server.url + "/api/recording", json={"recording": on}, timeout=20)
        wait_until(lambda on=on: by_id(page, "recording-sign").is_displayed() == on)
        assert by_id(page, "record").text == said
        assert stream.status()["viewers"] == stream.status()["listeners"] == 0
        picture(page, f"paused-recording-{on}")
    assert by_id(page, "still").is_displayed()


def test_each_panel_keeps_its_message_and_what_goes_wrong_meanwhile_is_told_there(page, tmp_path):
    (tmp_path / "letter.png").write_bytes(b"Dear reader")
    wait_until(lambda: people(page), 30)
    press(page, "pause")
    page.execute_script("""
        const ask = window.fetch;
        const wait = new Promise((done) => (window.answer = done));
        window.fetch = async (...asked) => {
            if (String(asked[0]).startsWith("/api/predict")) await wait;
            return ask(...asked);
        };
    """)
    by_id(page, "tab-upload").click()
    assert message(page) == ""
    by_id(page, "upload-file").send_keys(str(tmp_path / "letter.png"))
    wait_until(lambda: message(page) == "Analysing letter.png...")
    by_id(page, "tab-stream").click()
    assert message(page) == "Paused for you; others still see the stream."
    page.execute_script("answer()")
    wait_until(lambda: not by_id(page, "upload-file").get_property("value"))  # it was refused
    page.get_log("browser")  # where that is told too
    assert message(page) == "Paused for you; others still see the stream."
    picture(page, "message-of-stream")
    by_id(page, "tab-upload").click()
    assert "this is not a picture that is read here" in message(page)
    assert "error" in by_id(page, "upload-message").get_attribute("class").split()
    picture(page, "message-of-upload")


def test_the_chart_has_the_line_of_whom_is_chosen_from_its_beginning(page, server):
    import numpy as np
    from selenium.webdriver.support.ui import Select

    by_id(page, "tab-upload").click()
    wait_until(lambda: by_id(page, "pause").get_attribute("aria-disabled") == "true")
    page.execute_script("document.getElementById('pause').click()")  # there is no picture to keep
    by_id(page, "tab-stream").click()
    assert by_id(page, "pause").text == "Pause" and not by_id(page, "still").is_displayed()
    chart(page)
    # The list of people follows them while it has the focus, as it has after a choice.
    page.execute_script("const person = document.getElementById('person'); person.focus(); person.length = 1")
    wait_until(lambda: len(by_id(page, "person").find_elements("tag name", "option")) > 1, 30)
    wait_until(lambda: sum(drawn_points(page)) > 15)
    press(page, "pause")
    page.execute_script("chart.draw()")  # else it may come with the next frame
    everybody = canvas(page, "timeline")
    number = people(page)[0].split(":")[0]
    Select(by_id(page, "person")).select_by_value(number)
    assert (canvas(page, "timeline") != everybody).any()
    latest, told = page.execute_script(
        """
        const seen = chart.points.findLast((point) => point.values);
        const card = document.querySelector(`[aria-label="Person ${arguments[0]}"]`);
        return [chart.chosen(seen), [...card.querySelectorAll("li span:last-child")].map((each) => parseFloat(each.innerText))];
        """,
        number,
    )
    assert np.abs(100 * np.array(latest) - told).max() <= 0.51
    Select(by_id(page, "person")).select_by_value("")
    assert (canvas(page, "timeline") == everybody).all()


def all_fetched(server):
    """What others have recorded is fetched, so that the page need not ask."""
    requests.get(server.url + "/api/results.csv", timeout=20)


def asked(browser):
    """What the page asks in a window of the browser's; None where it does not."""
    from selenium.common.exceptions import NoAlertPresentException

    try:
        return browser.switch_to.alert
    except NoAlertPresentException:
        return None


def test_a_recording_that_nobody_has_fetched_is_not_replaced_unasked(browser):
    with serving(detector="haar", record_rows=12) as running:
        stream = running.engine.streams["demo"]
        browser.get(running.url)
        wait_until(lambda: people(browser), 30)
        by_id(browser, "record").click()
        # It ends by itself, and says why.
        ended = "The recording ended: 12 rows are the most. Get CSV has its 12 rows."
        wait_until(lambda: by_id(browser, "recording-note").text == ended, 20)
        assert message(browser) == "" and by_id(browser, "record").text == "Record results"
        picture(browser, "recording-ended")
        first = stream.recording
        by_id(browser, "record").click()
        question = wait_until(lambda: asked(browser))
        assert "12 rows that nobody has fetched" in question.text
        question.dismiss()
        time.sleep(0.5)
        assert stream.recording is first
        by_id(browser, "record").click()
        wait_until(lambda: asked(browser)).accept()
        wait_until(lambda: stream.recording is not first)
        wait_until(lambda: by_id(browser, "recording-note").text == ended, 20)
        second = stream.recording
        by_id(browser, "results").click()
        wait_until(lambda: second.fetched_rows == 12)
        by_id(browser, "record").click()
        wait_until(lambda: stream.recording is not second)  # without a question
        assert asked(browser) is None
        browser.get("about:blank")
    browser.get_log("browser")


def test_recording_shows_and_gives_a_table(page, server):
    all_fetched(server)
    wait_until(lambda: people(page), 30)
    assert not by_id(page, "recording-sign").is_displayed()
    by_id(page, "record").click()
    wait_until(lambda: by_id(page, "recording-sign").is_displayed())
    wait_until(lambda: "Recording results, " in by_id(page, "recording-sign").text)
    wait_until(lambda: server.engine.streams["demo"].recording.rows > 4)
    picture(page, "recording")
    by_id(page, "record").click()
    wait_until(lambda: not by_id(page, "recording-sign").is_displayed())
    table = requests.get(by_id(page, "results").get_attribute("href"), timeout=10).text
    assert table.startswith("time,time_s,source,model,width,height,track_id,")


def test_a_snapshot_is_handed_to_the_browser(page):
    wait_until(lambda: people(page), 30)
    press(page, "snapshot")
    wait_until(lambda: "Snapshot saved by your browser" in message(page))


def test_what_waits_for_a_connection_says_so_but_an_upload_goes_on(page, server, astronaut, tmp_path):
    """Six connections are all that a browser gives a server, and other windows may have them; seconds pass faster here."""
    stream = server.engine.streams["demo"]
    (tmp_path / "astronaut.png").write_bytes(encoded(astronaut))
    page.execute_script("""
        const wait = window.setTimeout;
        window.setTimeout = (what, ms) => wait(what, ms / 20);
        window.taken = [];
        window.take = (count) => {
            for (; count; count -= 1) taken.push(new EventSource("/api/stream/events?max_hz=1"));
        };
        window.giveBack = () => taken.splice(0).forEach((each) => each.close());
    """)
    wait_until(lambda: people(page), 30)
    wait_until(lambda: by_id(page, "snapshot").get_attribute("aria-disabled") == "false")
    page.execute_script("take(4)")
    wait_until(lambda: stream.status()["listeners"] == 5)
    press(page, "snapshot")
    wait_until(lambda: message(page).startswith("No answer in 20 s. If this page is open in other windows, close some"))
    by_id(page, "tab-upload").click()
    page.execute_script("take(2)")
    wait_until(lambda: stream.status()["viewers"] == 0 and stream.status()["listeners"] == 6)
    by_id(page, "upload-file").send_keys(str(tmp_path / "astronaut.png"))
    time.sleep(1.5)
    assert message(page) == "Analysing astronaut.png..."
    page.execute_script("giveBack()")
    wait_until(lambda: "1 face in astronaut.png." in message(page))


def test_an_uploaded_picture_is_analysed(page, astronaut, tmp_path):
    (tmp_path / "astronaut.png").write_bytes(encoded(astronaut))
    by_id(page, "tab-upload").click()
    by_id(page, "upload-file").send_keys(str(tmp_path / "astronaut.png"))
    wait_until(lambda: "1 face in astronaut.png." in message(page))
    assert len(people(page, "upload-people")) == 1
    assert page.execute_script("return document.getElementById('upload-image').width") == 512
    assert by_id(page, "upload-csv").is_displayed()
    picture(page, "upload")


def test_an_uploaded_video_is_analysed_and_played_with_boxes(page, tmp_path):
    import cv2

    demo = DemoSource(cast=DemoSource.CAST[:2], size_wh=(420, 240))
    for name, codec, frames in (("clip.webm", "VP80", 30), ("clip.avi", "MJPG", 4)):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*codec), 15, (420, 240))
        for number in range(frames):
            writer.write(cv2.cvtColor(demo.picture(1 + number / 15), cv2.COLOR_RGB2BGR))
        writer.release()
    by_id(page, "tab-upload").click()
    by_id(page, "upload-file").send_keys(str(tmp_path / "clip.avi"))
    wait_until(lambda: "4 frames of clip.avi analysed, 2 people seen. This browser can't play it;" in message(page), 40)
    assert not by_id(page, "upload-video").is_displayed() and by_id(page, "upload-csv").is_displayed()
    by_id(page, "upload-file").send_keys(str(tmp_path / "clip.webm"))
    wait_until(lambda: by_id(page, "upload-stop").is_displayed())
    by_id(page, "upload-stop").click()
    assert message(page) == "Stopped."
    assert page.switch_to.active_element.get_attribute("id") == "upload-file"
    by_id(page, "upload-file").send_keys(str(tmp_path / "clip.webm"))
    wait_until(lambda: "30 frames of clip.webm analysed, 2 people seen. Play it to see the boxes." in message(page), 40)
    page.execute_script("document.getElementById('upload-video').currentTime = 1")
    wait_until(lambda: len(people(page, "upload-people")) == 2)
    picture(page, "upload-video")
    page.execute_script("document.getElementById('upload-video').dispatchEvent(new Event('error'))")  # as of a damaged end
    assert "2 people seen. This browser can't play it;" in message(page)


def test_upright_pictures_and_films_are_seen_whole_with_their_boxes_in_place(page, astronaut, tmp_path):
    import cv2
    from PIL import Image

    demo = DemoSource(cast=DemoSource.CAST[:1], size_wh=(270, 480))
    writer = cv2.VideoWriter(str(tmp_path / "upright.webm"), cv2.VideoWriter_fourcc(*"VP80"), 15, (270, 480))
    for number in range(8):
        writer.write(cv2.cvtColor(demo.picture(1 + number / 15), cv2.COLOR_RGB2BGR))
    writer.release()
    Image.fromarray(astronaut).resize((540, 960)).save(tmp_path / "upright.png")
    size(page, 1280, 857)
    by_id(page, "tab-upload").click()
    box = "const at = document.getElementById(arguments[0]).getBoundingClientRect(); return [at.x, at.y, at.width, at.height]"
    by_id(page, "upload-file").send_keys(str(tmp_path / "upright.png"))
    wait_until(lambda: len(people(page, "upload-people")) == 1)
    assert page.execute_script(box, "upload-image")[3] <= 0.81 * 857
    picture(page, "upload-upright")
    by_id(page, "upload-file").send_keys(str(tmp_path / "upright.webm"))
    wait_until(lambda: "8 frames of upright.webm analysed" in message(page), 40)
    film = page.execute_script(box, "upload-video")
    assert film[3] <= 0.81 * 857 and film == page.execute_script(box, "upload-boxes")
    picture(page, "upload-upright-film")
    size(page, 390, 844, phone=True)
    assert 0 < page.execute_script(box, "upload-video")[3] <= 0.91 * 844


def test_uploads_wait_for_their_turn_and_can_be_chosen_again(page, server, astronaut, tmp_path):
    import contextlib

    import cv2
    import numpy as np

    clip, letter = tmp_path / "clip.webm", tmp_path / "letter.png"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"VP80"), 15, (96, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    letter.write_bytes(b"Dear reader")
    page.execute_script("""
        window.sent = 0;
        const ask = window.fetch;
        window.fetch = (url, ...rest) => {
            sent += String(url).startsWith("/api/video");
            return ask(url, ...rest);
        };
    """)
    by_id(page, "tab-upload").click()
    with contextlib.ExitStack() as other:
        for _ in range(2):
            other.enter_context(server.engine.video_analyzer("ferplus-cnn", "haar"))
        by_id(page, "upload-file").send_keys(str(clip))
        wait_until(lambda: page.execute_script("return sent") == 1)
        time.sleep(0.3)
        assert message(page) == "Analysing clip.webm..."
    wait_until(lambda: "3 frames of clip.webm analysed" in message(page))
    page.execute_async_script("""
        const choice = document.getElementById("upload-detector");
        for (const { value } of [...choice.options, ...choice.options]) {
            choice.value = value;
            choice.dispatchEvent(new Event("change"));
            await new Promise((done) => setTimeout(done, 50));
        }
        arguments[0]();
    """)
    wait_until(lambda: page.execute_script("return sent") > 1)
    wait_until(lambda: "3 frames of clip.webm analysed" in message(page))
    assert page.execute_script("return sent") == 2

    by_id(page, "upload-file").send_keys(str(letter))
    wait_until(lambda: "this is not a picture that is read here" in message(page))
    letter.write_bytes(encoded(astronaut))
    by_id(page, "upload-file").send_keys(str(letter))
    wait_until(lambda: "1 face in letter.png." in message(page))
    page.get_log("browser")  # the refused request is in the console, as it should be


def test_small_turned_and_transparent_pictures_have_their_boxes_where_the_faces_are(page, astronaut, tmp_path):
    import cv2
    import numpy as np
    from PIL import Image

    page.execute_script("""
        window.boxes = [];
        const pen = CanvasRenderingContext2D.prototype;
        for (const name of ["strokeRect", "fillRect"]) {
            const draw = pen[name];
            pen[name] = function (...box) {
                if (this.canvas.id === "upload-image") boxes.push(box);
                draw.apply(this, box);
            };
        }
    """)
    by_id(page, "tab-upload").click()
    Image.fromarray(cv2.resize(astronaut[:250, 100:350], (48, 48))).save(tmp_path / "small.png")
    page.execute_script("document.getElementById('upload-faces').value = 'full'")
    by_id(page, "upload-file").send_keys(str(tmp_path / "small.png"))
    wait_until(lambda: "1 face in small.png." in message(page))
    assert canvas(page, "upload-image").shape[:2] == (336, 336)
    box, label = page.execute_script("return boxes.slice(-2)")
    assert box == [0, 0, 336, 336]
    assert label[3] < 336 / 10
    picture(page, "upload-small")

    page.execute_script("document.getElementById('upload-faces').value = 'auto'")
    upright = Image.fromarray(astronaut[:400])
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.webp", exif=exif, lossless=True)
    by_id(page, "upload-file").send_keys(str(tmp_path / "turned.webp"))
    wait_until(lambda: message(page) == "1 face in turned.webp.")
    shown = canvas(page, "upload-image")[:, :, :3].astype(int)
    assert shown.shape == (400, 512, 3)
    assert (np.abs(shown - np.asarray(upright)).max(axis=2) < 4).mean() > 0.9  # but for the box and its label

    # Where XMP alone says it, which no browser reads.
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "odd.webp", xmp=xmp, quality=90)
    by_id(page, "upload-file").send_keys(str(tmp_path / "odd.webp"))
    wait_until(lambda: "This browser would show the picture turned, so its boxes are shown alone." in message(page))
    assert (canvas(page, "upload-image")[:, :, 3] == 0).mean() > 0.9

    clear = np.dstack([astronaut, np.where(np.arange(512) < 300, 255, 0)[None].repeat(512, 0)]).astype(np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    by_id(page, "upload-file").send_keys(str(tmp_path / "clear.png"))
    wait_until(lambda: "1 face in clear.png." in message(page))
    before = canvas(page, "upload-image")
    size(page, 500, 1100)
    wait_until(lambda: (canvas(page, "upload-image") != before).any())  # the label has another size
    size(page, 1280, 1100)
    wait_until(lambda: (canvas(page, "upload-image") == before).all())


def test_nothing_is_drawn_over_the_label_of_somebody_else(page):
    drawn, labels, small, theirs = page.execute_async_script("""
        const done = arguments[0];
        import("/static/common.js").then(({ drawBoxes }) => {
            const canvas = document.createElement("canvas");
            [canvas.id, canvas.width, canvas.height] = ["crowd", 640, 360];
            canvas.style.cssText = "position: fixed; inset: 0; width: 640px; background: #fff";
            document.body.append(canvas);
            const pen = canvas.getContext("2d", { willReadFrequently: true });
            const labels = [];
            const fill = pen.fillRect;
            pen.fillRect = (...box) => {
                labels.push(box);
                fill.apply(pen, box);
            };
            // The label of the first is above its box, where the edges of the others pass.
            const near = [[270, 120, 330, 180], [335, 122, 395, 182]];
            const boxes = [[80, 120, 260, 320], [40, 30, 600, 112], [140, 50, 200, 300], ...near];
            const faces = boxes.map((box, index) => ({ box, id: index + 1, label: "happiness", confidence: 0.84 }));
            const crowd = [];
            for (const some of [faces.slice(0, 1), faces]) {
                pen.clearRect(0, 0, canvas.width, canvas.height);
                drawBoxes(pen, some, "ferplus-cnn");
                const [left, top, wide, high] = labels[0];
                crowd.push(pen.getImageData(left + 2, top + 2, wide - 4, high - 4).data.join());
            }
            const ofCrowd = labels.splice(0).slice(1);
            const row = [60, 150, 240].map((x) => [x, 100, x + 24, 124]);
            drawBoxes(pen, row.map((box, index) => ({ ...faces[index], box })), "ferplus-cnn");
            done([crowd, ofCrowd, row, labels]);
        });
    """)
    picture(page, "crowd")
    faces = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in small]
    for one, other in [*itertools.combinations(labels, 2), *itertools.product(faces, theirs)]:
        beside = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
        assert beside or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1]
    label = labels[0]
    assert label[2] > 100 and label[3] > 15
    assert len(drawn[0]) > 5000
    assert drawn[0] == drawn[1]


def test_webp_is_turned_by_every_orientation(page):
    import numpy as np
    from PIL import Image, ImageOps

    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8))
    files, wanted = [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        stored.save(file, "WEBP", exif=exif, lossless=True)
        files.append(base64.b64encode(file.getvalue()).decode())
        wanted.append(np.asarray(ImageOps.exif_transpose(Image.open(file))).tolist())
    seen = page.execute_async_script(
        """
        const [files, done] = arguments;
        import("/static/upright.js").then(async ({ upright }) => {
            const seen = [];
            for (const file of files) {
                const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
                const found = await upright(new Blob([bytes]));
                const canvas = new OffscreenCanvas(found.width, found.height);
                const pen = canvas.getContext("2d");
                pen.drawImage(found, 0, 0);
                seen.push([found.height, found.width, [...pen.getImageData(0, 0, found.width, found.height).data]]);
            }
            done(seen);
        });
        """,
        files,
    )
    assert [np.reshape(data, (height, width, 4))[:, :, :3].tolist() for height, width, data in seen] == wanted


def test_labels_are_as_large_on_the_page_whatever_the_size_of_the_picture(page, astronaut, tmp_path):
    """The heights of labels as they are seen, in CSS pixels."""
    import numpy as np

    photo = np.repeat(np.repeat(astronaut, 6, axis=0), 6, axis=1)  # 3072x3072
    (tmp_path / "photo.jpg").write_bytes(encoded(photo, "JPEG"))
    (tmp_path / "panorama.jpg").write_bytes(encoded(np.pad(photo[:1536], ((0, 0), (0, 5000), (0, 0))), "JPEG"))
    page.execute_script("""
        const pen = CanvasRenderingContext2D.prototype;
        const fill = pen.fillText;
        pen.fillText = function (...text) {
            const size = parseFloat(/([0-9.]+)px/.exec(this.font)[1]);
            if (this.canvas.id === "upload-image") window.labels.push((size * this.canvas.clientWidth) / this.canvas.width);
            fill.apply(this, text);
        };
    """)
    by_id(page, "tab-upload").click()
    for width, phone in ((1280, False), (360, True)):
        size(page, width, 1100, phone=phone)
        for name in ("photo.jpg", "panorama.jpg"):
            page.execute_script("window.labels = []; document.getElementById('upload-file').value = ''")
            by_id(page, "upload-file").send_keys(str(tmp_path / name))
            wait_until(lambda name=name: f"1 face in {name}." in message(page), 40)
            seen = page.execute_script("return labels")[-1]
            assert 11.5 < seen < 17, (width, name)
            picture(page, f"upload-{width}-{name}")
    page.execute_script("window.labels = []")
    size(page, 900, 1100)  # nothing new is uploaded
    assert 11.5 < wait_until(lambda: page.execute_script("return labels"))[-1] < 17


def test_files_are_told_by_their_first_bytes_where_the_browser_does_not_know_them(page, server, tmp_path):
    import cv2
    import numpy as np

    accepted = by_id(page, "upload-file").get_attribute("accept").split(",")
    assert {"video/mp4", "video/quicktime", "video/webm", "video/matroska", "video/x-matroska"} <= set(accepted)
    by_id(page, "tab-upload").click()
    for suffix, codec in ((".mp4", "mp4v"), (".mkv", "VP80"), (".avi", "MJPG")):
        film, clip = tmp_path / f"film{suffix}", tmp_path / f"clip-of-{codec}"
        writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*codec), 15, (96, 64))
        for _ in range(3):
            writer.write(np.zeros((64, 96, 3), np.uint8))
        writer.release()
        film.rename(clip)
        by_id(page, "upload-file").send_keys(str(clip))
        wait_until(lambda clip=clip: f"3 frames of {clip.name} analysed" in message(page))
        assert page.execute_script("return document.getElementById('upload-file').files[0].type") == ""
    page.get_log("browser")  # what this browser can't play is in the console


@pytest.mark.parametrize(("name", "start"), [("letter.png", b"Dear reader"), ("photo", b"\0\0\0\x18ftypheic\0\0\0\0")])
def test_a_file_that_is_no_picture_is_told_kindly(browser, server, tmp_path, name, start):
    (tmp_path / name).write_bytes(start)
    browser.get("about:blank")
    browser.get(server.url + "/#upload")
    wait_until(lambda: by_id(browser, "panel-upload").is_displayed())
    by_id(browser, "upload-file").send_keys(str(tmp_path / name))
    wait_until(lambda: "this is not a picture that is read here" in message(browser))
    browser.get_log("browser")  # the refused request is in the console, as it should be


# Whether anything is drawn over the visitor's own picture.
DRAWN = """
    const boxes = document.getElementById("webcam-boxes");
    const copy = Object.assign(document.createElement("canvas"), { width: boxes.width, height: boxes.height });
    copy.getContext("2d").drawImage(boxes, 0, 0); // of one that is read again and again the browser complains
    return copy.getContext("2d").getImageData(0, 0, boxes.width, boxes.height).data.some((value) => value > 0);
"""


def test_a_picture_that_is_too_large_for_the_server_is_sent_smaller(page, astronaut, tmp_path):
    import cv2

    large = cv2.resize(astronaut, (5400, 5400), interpolation=cv2.INTER_CUBIC)  # 29 megapixels
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", large[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
    assert (tmp_path / "large.png").stat().st_size > 12 * 2**20
    (tmp_path / "long.jpg").write_bytes(cv2.imencode(".jpg", cv2.resize(large, (6000, 4800))[..., ::-1])[1])
    by_id(page, "tab-upload").click()
    for name, smaller in (("large.png", "3464 x 3464"), ("long.jpg", "3872 x 3098")):
        by_id(page, "upload-file").send_keys(str(tmp_path / name))
        said = f"1 face in {name}. It is too large to be sent, so it was made {smaller} pixels first."
        wait_until(lambda said=said: message(page) == said, 60)
        picture(page, f"upload-{name}")


def test_of_a_film_whose_analysis_ends_too_early_what_there_is_can_be_had(page, tmp_path):
    page.execute_script("""
        const ask = window.fetch;
        window.fetch = async (url, ...rest) => {
            const answer = await ask(url, ...rest);
            if (!String(url).startsWith("/api/video")) return answer;
            const lines = (await answer.text()).split("\\n").slice(0, 9);
            return new Response([...lines, ...window.last].join("\\n") + "\\n");
        };
    """)
    film = grey_film(tmp_path / "film.mp4")
    by_id(page, "tab-upload").click()
    error = '{"type": "error", "message": "the server is stopping"}'
    for last, said in (([], "The connection ended"), ([error], "the server is stopping")):
        page.execute_script("window.last = arguments[0]", last)
        by_id(page, "upload-file").send_keys(str(film))
        wait_until(lambda said=said: message(page).startswith(said), 60)
        assert message(page) == f"{said}; the chart and the CSV have the 8 frames that were analysed before."
        assert by_id(page, "upload-csv").is_displayed() and by_id(page, "upload-timeline").is_displayed()
        assert not by_id(page, "upload-progress").is_displayed()


def test_the_visitors_own_webcam_is_analysed_and_only_while_wanted(page):
    """The visitor is slow to allow the camera: as often as it was asked for, `allow` is called."""
    page.execute_script("""
        const media = navigator.mediaDevices;
        const get = media.getUserMedia.bind(media);
        window.waiting = [];
        window.tracks = [];
        window.sent = 0;
        media.getUserMedia = async (wanted) => {
            await new Promise((allow) => waiting.push(allow));
            const given = await get(wanted);
            tracks.push(...given.getTracks());
            return given;
        };
        window.allow = () => waiting.splice(0).forEach((each) => each());
        const ask = window.fetch;
        window.fetch = (url, ...rest) => {
            const isPicture = String(url).startsWith("/api/webcam");
            sent += isPicture;
            if (isPicture && window.slow) {
                return new Promise((done) => setTimeout(done, 5000)).then(() => ask(url, ...rest));
            }
            return isPicture && window.busy ? Promise.resolve(new Response("", { status: 503 })) : ask(url, ...rest);
        };
    """)

    def allow(asked):
        wait_until(lambda: page.execute_script("return waiting.length") == asked)
        page.execute_script("tracks.length = 0; allow()")
        wait_until(lambda: page.execute_script("return tracks.length") == asked)
        time.sleep(0.5)

    def on():
        return page.execute_script("return tracks.filter((each) => each.readyState === 'live').length")

    by_id(page, "tab-webcam").click()
    by_id(page, "webcam-toggle").click()
    by_id(page, "tab-upload").click()  # left while asked
    allow(1)
    assert on() == 0 and page.execute_script("return sent") == 0
    by_id(page, "tab-webcam").click()
    by_id(page, "webcam-toggle").click()
    by_id(page, "webcam-toggle").click()
    allow(2)
    assert on() == 1 and by_id(page, "webcam-toggle").text == "Stop my webcam"
    page.execute_script("window.busy = true")
    wait_until(lambda: "503" in message(page))
    page.execute_script("window.busy = false")
    wait_until(lambda: message(page) == "")
    wait_until(lambda: len(people(page, "webcam-people")) == 2, 30)
    wait_until(lambda: "pictures/s" in by_id(page, "webcam-rate").text)
    picture(page, "webcam")
    page.execute_script("window.slow = true")
    wait_until(lambda: by_id(page, "webcam-rate").text == "waiting for the server" and not people(page, "webcam-people"))
    assert not page.execute_script(DRAWN)
    page.execute_script("window.slow = false")
    wait_until(lambda: len(people(page, "webcam-people")) == 2 and page.execute_script(DRAWN))
    by_id(page, "webcam-toggle").click()
    wait_until(lambda: not people(page, "webcam-people"))
    assert on() == 0 and message(page) == ""

    by_id(page, "webcam-toggle").click()
    allow(1)
    assert on() == 1
    page.execute_cdp_cmd("Browser.setPermission", {"permission": {"name": "camera"}, "setting": "denied"})  # as unplugged
    wait_until(lambda: message(page).startswith("The camera went away"))
    page.execute_cdp_cmd("Browser.resetPermissions", {})
    assert by_id(page, "webcam-toggle").text == "Start my webcam"
    time.sleep(0.5)  # a picture may be on its way
    sent = page.execute_script("return sent")
    time.sleep(0.5)
    assert page.execute_script("return sent") == sent


def test_tabs_are_walked_by_arrow_keys_and_everything_has_a_name(page):
    from selenium.webdriver.common.keys import Keys

    by_id(page, "tab-stream").send_keys(Keys.ARROW_RIGHT)
    assert by_id(page, "panel-webcam").is_displayed() and not by_id(page, "panel-stream").is_displayed()
    page.switch_to.active_element.send_keys(Keys.END)
    assert by_id(page, "panel-upload").is_displayed()
    page.switch_to.active_element.send_keys(Keys.HOME)
    assert page.switch_to.active_element.get_attribute("id") == "tab-stream"
    page.execute_script("location.hash = '#upload'")  # as by a link or the address bar
    wait_until(lambda: by_id(page, "panel-upload").is_displayed())
    page.execute_script("location.hash = '#main'")  # of the link that skips to the content
    time.sleep(0.2)
    assert by_id(page, "panel-upload").is_displayed()
    nameless = page.execute_script("""
        return [...document.querySelectorAll("button, a, input, select, canvas, img, video, progress")].filter((each) =>
            !(each.innerText || each.getAttribute("aria-label") || each.getAttribute("alt") || each.labels?.length))
            .map((each) => each.outerHTML);
    """)
    assert nameless == []


def test_a_phone_needs_no_scrolling_sideways(page, server):
    wait_until(lambda: people(page), 30)
    size(page, 360, 740, phone=True)
    cut = page.execute_script("""
        document.getElementById("stream-message").textContent = "nobreak".repeat(40);
        const card = document.querySelector(".person").cloneNode(true);
        document.getElementById("people").append(card);
        const texts = [...card.querySelectorAll("li span:first-child")];
        texts[0].textContent = "embarrassment";
        texts[1].textContent = "nobreak".repeat(9);
        const isCut = (each) => each.scrollWidth > each.clientWidth || each.clientWidth < 20;
        return [...card.querySelectorAll("li > *")].filter(isCut).length;
    """)
    assert cut == 0
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    picture(page, "phone-long-words")
    for tab in ("stream", "webcam", "upload"):
        by_id(page, f"tab-{tab}").click()
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360, tab
        picture(page, f"phone-{tab}")
    dark(page, True)
    by_id(page, "tab-stream").click()
    wait_until(lambda: people(page), 30)
    picture(page, "phone-dark")
    page.get(server.url + "/models/ferplus-cnn")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    picture(page, "phone-model")


def test_the_pages_of_models_are_readable(page, server):
    page.get(server.url + "/models")
    page.find_element("link text", "ferplus-cnn").click()
    assert page.find_element("tag name", "h1").text == "ferplus-cnn"
    assert "Not for: inferring emotions" in page.find_element("class name", "card").text
    picture(page, "model")
    page.find_element("css selector", ".card").find_element("link text", "bias-lfw.html").click()
    assert "Bias report: ferplus-cnn on lfw" in page.find_element("tag name", "h1").text


class Unplugged(DemoSource):
    away = True

    def read(self):
        from serving.sources import SourceLostError

        if self.away:
            raise SourceLostError("the demo is unplugged")
        return super().read()


def choices(browser, name):
    return browser.execute_script(
        "return [...document.getElementById(arguments[0]).options].map((each) => [each.value, each.text])", name
    )


def test_what_is_missing_of_a_damaged_film_is_told(browser, tmp_path):
    film = damaged_film(grey_film(tmp_path / "film.mp4"), 5)
    with serving([create_source(str(film)), DemoSource()], detector="haar") as running:
        browser.get(running.url)
        wait_until(lambda: by_id(browser, "fact-note").text == "1 of 25 frames can't be read; the file is damaged", 30)
        assert by_id(browser, "fact-state").text == "live"
        picture(browser, "damaged")
        by_id(browser, "tab-upload").click()
        by_id(browser, "upload-file").send_keys(str(film))
        wait_until(lambda: "Not whole: 1 of 25 frames can't be read; the file is damaged." in message(browser))
        browser.get_log("browser")  # what this browser can't play is in the console


def test_the_page_follows_a_source_that_is_lost_another_one_and_a_restart_of_the_server(browser, twin):
    from selenium.webdriver.support.ui import Select

    unplugged, other = Unplugged(), DemoSource()
    other.title = "other"
    port = free_port()
    with serving([unplugged, other], detector="haar", port=port) as running:
        browser.get(running.url)
        wait_until(lambda: by_id(browser, "fact-state").text == "lost", 30)
        wait_until(lambda: "the demo is unplugged" in by_id(browser, "nobody").text)
        time.sleep(1.2)
        picture(browser, "lost")
        chart(browser)
        unplugged.away = False
        wait_until(lambda: sum(drawn_points(browser)) > 1)
        unplugged.away = True
        wait_until(lambda: not drawn_points(browser)[-1])

        Select(by_id(browser, "source")).select_by_value("other")
        wait_until(lambda: people(browser))
        by_id(browser, "record").click()
        wait_until(lambda: by_id(browser, "recording-sign").is_displayed() and people(browser))
        press(browser, "pause")
        assert by_id(browser, "still").is_displayed()
        Select(by_id(browser, "source")).select_by_value("demo")
        assert not by_id(browser, "still").is_displayed() and by_id(browser, "picture").is_displayed()
        assert not people(browser) and not by_id(browser, "recording-sign").is_displayed()
        assert [by_id(browser, name).text for name in ("pause", "record", "results")] == ["Pause", "Record results", ""]
        wait_until(lambda: by_id(browser, "fact-state").text == "lost")
        assert running.engine.streams["other"].recording.active
        Select(by_id(browser, "source")).select_by_value("other")
        wait_until(lambda: by_id(browser, "record").text == "Stop recording")
        browser.execute_script("""
            const source = document.getElementById("source");
            source.value = "demo";
            source.dispatchEvent(new Event("change"));
            document.getElementById("record").click();
        """)
        wait_until(lambda: running.engine.streams["demo"].recording)  # before anything was heard of that source
        Select(by_id(browser, "source")).select_by_value("other")
        wait_until(lambda: people(browser))
    wait_until(lambda: any(what in message(browser) for what in ("The server does not answer", "the server is stopping")))
    assert not people(browser)
    assert [by_id(browser, f"fact-{name}").text for name in ("fps", "latency", "viewers")] == ["-", "-", "-"]
    with serving([unplugged, other], detector="haar", port=port) as running:
        wait_until(lambda: people(browser), 30)
        assert message(browser) == ""
        assert running.engine.streams["other"].status()["viewers"] == 1  # of pictures too, not of numbers alone
    named, twice = DemoSource(), DemoSource()
    named.title = twice.title = "Café Überblick.mp4"
    with serving([named, twice], models=(str(twin),), detector="haar", port=port, max_viewers=2) as running:
        browser.execute_script("window.dispatchEvent(new Event('pageshow'))")  # else it would try again in up to 4 s
        wait_until(lambda: choices(browser, "model") == [["twin", "twin"]])
        titles = [
            ["caf-berblick-mp4", "Café Überblick.mp4 (caf-berblick-mp4)"],
            ["caf-berblick-mp4-2", "Café Überblick.mp4 (caf-berblick-mp4-2)"],
        ]
        assert choices(browser, "source") == titles
        wait_until(lambda: people(browser), 30)
        assert {each.split(": ")[1].split("\n")[0] for each in people(browser)} <= {*TWIN_LABELS, "uncertain"}
        by_id(browser, "tab-upload").click()
        stream = running.engine.streams["caf-berblick-mp4"]
        wait_until(lambda: stream.status()["listeners"] == 0)
        events = running.url + "/api/stream/events"
        with requests.get(events, stream=True, timeout=10), requests.get(events, stream=True, timeout=10):
            by_id(browser, "tab-stream").click()
            wait_until(lambda: "2 watch already, which is the most allowed; try again later; trying" in message(browser))
        browser.get("about:blank")
    browser.get_log("browser")  # the requests that were not answered are in the console, as they should be


def test_the_own_webcam_shows_nothing_old_of_a_server_that_ended_and_tells_of_another_one(browser, twin):
    port = free_port()
    with serving([DemoSource()], detector="haar", port=port) as running:
        browser.get(running.url + "/#webcam")
        browser.refresh()  # where only the part after # is another the page would stay
        by_id(browser, "webcam-toggle").click()
        wait_until(lambda: people(browser, "webcam-people"), 30)
    wait_until(lambda: any(what in message(browser) for what in ("The server does not answer", "the server is stopping")))
    assert not people(browser, "webcam-people") and not browser.execute_script(DRAWN) and not by_id(browser, "webcam-rate").text
    with serving([DemoSource()], models=(str(twin),), detector="haar", port=port):
        wait_until(lambda: message(browser).startswith("The server has other models or sources now"), 30)
        assert by_id(browser, "webcam-toggle").text == "Start my webcam"
        by_id(browser, "tab-stream").click()  # not open before
        wait_until(lambda: choices(browser, "model") == [["twin", "twin"]])
        browser.get("about:blank")
    browser.get_log("browser")  # the requests that were not answered are in the console, as they should be


def test_the_page_works_below_a_path_that_a_proxy_gives_it(browser, astronaut, tmp_path):
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.wrappers import Response

    (tmp_path / "astronaut.png").write_bytes(encoded(astronaut))
    token = "correct-horse-battery"  # noqa: S105 - of this test
    with serving(token=token, detector="haar") as running:
        # As gunicorn does with SCRIPT_NAME=/fer: what is asked elsewhere is not ours.
        running.server.wsgi_app = DispatcherMiddleware(Response("of somebody else", status=404), {"/fer": running.app})
        browser.get_log("browser")
        browser.get(running.url + "/fer/models")
        by_id(browser, "token").send_keys(token)
        browser.find_element("css selector", "form button").click()
        wait_until(lambda: browser.current_url == running.url + "/fer/models" and browser.find_elements("css selector", ".cards"))
        browser.find_element("link text", "Live").click()
        wait_until(lambda: people(browser), 30)
        wait_until(lambda: browser.execute_script("return document.getElementById('picture').naturalWidth") == 640)
        described = requests.get(running.url + "/fer/api/openapi.json", headers={"Authorization": f"Bearer {token}"}, timeout=10)
        assert described.json()["servers"] == [{"url": "/fer"}]
        by_id(browser, "record").click()
        wait_until(lambda: by_id(browser, "recording-sign").is_displayed())
        assert by_id(browser, "results").get_attribute("href").startswith(running.url + "/fer/api/results.csv?")
        press(browser, "snapshot")
        wait_until(lambda: "Snapshot saved by your browser" in message(browser))
        by_id(browser, "tab-upload").click()
        by_id(browser, "upload-file").send_keys(str(tmp_path / "astronaut.png"))
        wait_until(lambda: "1 face in astronaut.png." in message(browser))
        refused = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert len(refused) == 1 and "/fer/models" in refused[0] and "401" in refused[0]
        browser.delete_all_cookies()  # of the page that is open
        browser.get("about:blank")


def test_a_token_lets_the_page_in_and_its_streams_too(browser):
    token = "correct-horse-battery"  # noqa: S105 - of this test
    with serving(token=token, detector="haar", blur=True) as running:
        browser.get(running.url)
        by_id(browser, "token").send_keys(token)
        picture(browser, "login")
        browser.find_element("css selector", "form button").click()
        wait_until(lambda: people(browser), 30)
        picture(browser, "blurred")
        browser.delete_all_cookies()  # of the page that is open
        browser.get("about:blank")
