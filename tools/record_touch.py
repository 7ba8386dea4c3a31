"""Record the page docs/touch as it is used: python -m tools.record_touch (`make touch` first).

Writes docs/touch/touch.gif, which the README shows. Needs chromium and chromedriver.
"""

import io
import shutil

from PIL import Image
from selenium import webdriver

from tools.build_touch import BUILD
from vocseg_lib.utils.files import atomic_write

SIZE, SHOWN = (1_100, 830), (770, 581)
"""Pixels: of the window, and of a frame."""
STEPS, FRAME_MS = 8, 120
AFTER_FRAME = "const [done] = arguments; busy.then(() => requestAnimationFrame(() => done()));"
SLIDE = """const [bar, part] = arguments, value = (1 - part) * bar.first + part * bar.last;
bar.value = value; bar.dispatchEvent(new Event("input"));"""


def slide(driver: webdriver.Chrome, bar: str, last: str) -> list[Image.Image]:
    """Frames of a slider that is moved; both are JavaScript, `last` of the first value `v`."""
    element = driver.execute_script(
        f"const bar = {bar}, v = Number(bar.value); bar.first = v; bar.last = {last}; return bar;"
    )
    frames = []
    for step in range(1, STEPS + 1):
        driver.execute_script(SLIDE, element, step / STEPS)
        frames.append(frame(driver))
    return frames


def click(driver: webdriver.Chrome, selector: str) -> list[Image.Image]:
    """Frames after a click, as long as a slider takes to be moved."""
    driver.execute_script(f"document.querySelector('{selector}').click();")
    return [frame(driver)] * STEPS


def frame(driver: webdriver.Chrome) -> Image.Image:
    driver.execute_async_script(AFTER_FRAME)
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    return picture.resize(SHOWN, Image.Resampling.LANCZOS)


def main() -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", f"window-size={SIZE[0]},{SIZE[1]}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    width, height = SIZE
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    driver.get((BUILD.parent / "index.html").as_uri())
    frames = [frame(driver)] * STEPS
    first = "document.querySelector('#bars input')"
    frames += slide(driver, first, "-v") + slide(driver, first, "-v")
    frames += slide(driver, "document.getElementById('right')", "0.5")
    frames += click(driver, "#crop") + click(driver, "#reset") + click(driver, "#lessons button")
    driver.quit()
    both = Image.new("RGB", (SHOWN[0], 2 * SHOWN[1]))
    both.paste(frames[0])
    both.paste(frames[-1], (0, SHOWN[1]))
    palette = both.quantize(256)
    small = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in frames]
    with atomic_write(path := BUILD.parent / "touch.gif") as temporary:
        small[0].save(
            temporary, "GIF", save_all=True, append_images=small[1:], duration=FRAME_MS, loop=0
        )
    print(path)


if __name__ == "__main__":
    main()
