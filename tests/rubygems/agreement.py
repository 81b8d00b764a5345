"""What Ruby makes of platforms, versions and requirements, as a table: 40,000 comparisons and as many matches.

The table lies in `data/agreement.json`. It was made by RubyGems 4.0.22, and is made anew by

    python -m tests.rubygems.agreement ROOT > tests/rubygems/data/agreement.json

where ROOT is an unpacked Debian release with RubyGems 3.7 or later.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.rubygems.conftest import run_ruby

PLATFORMS = [
    "ruby", "java", "jruby", "mruby", "opal", "truffleruby", "unknown", "linux", "linux-gnu", "musl", "x86_64", "a1",
    *(f"{cpu}-linux" for cpu in ("x86_64", "aarch64", "arm", "armv7l", "x86", "i386", "i686", "s390x", "riscv64")),
    *(f"{cpu}-linux-gnu" for cpu in ("x86_64", "aarch64", "i686", "ppc64le", "riscv64", "loongarch64", "s390x")),
    *(f"{cpu}-linux-musl" for cpu in ("x86_64", "aarch64", "i686", "riscv64")),
    *(f"arm-linux-{libc}" for libc in ("gnueabi", "gnueabihf", "musleabi", "musleabihf", "eabihf", "uclibceabi")),
    "armv7l-linux-gnueabihf", "x86_64-linux-gnux32", "mips64el-linux-gnuabi64", "x86_64-linux-android",
    "x86_64-linux-uclibc", "x86_64-linux-musl-1.2", "x86_64-linux-gnu-2", "x86_64-unknown-linux-gnu", "x86_64-linux-",
    "wasm32-wasi", "wasm32-unknown-wasi",
    "x86_64-darwin", "x86_64-darwin-21", "x86_64-darwin21", "arm64-darwin", "arm64-darwin-23", "universal-darwin",
    "universal-darwin-9", "powerpc-darwin-8", "x86-darwin-10",
    "x64-mingw-ucrt", "x64-mingw", "x64-mingw32", "x86-mingw32", "universal-mingw32", "aarch64-mingw-ucrt",
    "i386-mswin32", "x86-mswin32-60", "x64-mswin64-140", "x64-mswin64_140", "mswin32", "mswin64", "mswin32_60",
    "x86-freebsd-6", "x86-freebsd7", "amd64-freebsd", "x86_64-freebsd-13", "x86-openbsd3.9", "x86-netbsdelf",
    "x86-solaris2.10", "sparc-solaris-2.8", "aix", "powerpc-aix-5", "ppc-hpux11", "x86-cygwin", "bitrig5.5",
    "java1.8", "java-1.8", "universal-java-11", "jruby1.6", "dotnet", "dotnet-4.0", "universal-dotnet4.0", "dalvik",
    "universal-dalvik-1.4", "macruby", "x86-test_platform9", "a-b-c", "a-b-c-d", "2.0-java", "x86-", "--",
]  # fmt: skip
"""Platforms as authors write them."""
EARLIER = {
    "x86_64-linux-gnux32", "mips64el-linux-gnuabi64", "x86_64-linux-musl-1.2", "x86_64-linux-gnu-2",
    "x86_64-unknown-linux-gnu", "java1.8", "universal-dalvik-1.4",
}  # fmt: skip
"""Those that RubyGems before 3.7 reads in another way."""
SIZE = 200
"""So many versions, and so many requirements."""
SCRIPT = """
versions = input['versions'].map { |text| Gem::Version.new(text) }
answer({
  gem: Gem::VERSION,
  platforms: input['platforms'].map { |text|
    one = Gem::Platform.new(text)
    [text, one.is_a?(String) ? nil : one.to_a, one.to_s]
  },
  versions: input['versions'],
  order: versions.map { |one| versions.map { |other| '<=>'[(one <=> other) + 1] }.join },
  requirements: input['requirements'],
  matches: input['requirements'].map { |text|
    wanted = Gem::Requirement.new(*text.split(','))
    versions.map { |one| wanted.satisfied_by?(one) ? 'y' : 'n' }.join
  }
})
"""


def table(root: Path) -> Any:
    """What the Ruby below `root` answers."""
    random_ = random.Random(15)
    parts = ["0", "0", "1", "2", "9", "10", "a", "b", "rc", "rc1", "pre", "0a", "b0", "alpha2"]
    given = [".".join([str(random_.randrange(4)), *random_.choices(parts, k=n % 6)]) for n in range(2 * SIZE)]
    given += ["1.0-beta", "1.0-beta.1", "20240101", "99999999999999999999", "1.2.3b", "1.0.A", "1.00.2"]
    versions = random_.sample(list(dict.fromkeys(given)), SIZE)
    operators = ["=", "!=", ">", "<", ">=", "<=", "~>", "~>"]
    requirements = [
        ", ".join(f"{random_.choice(operators)} {random_.choice(versions)}" for _ in range(1 + n % 2))
        for n in range(SIZE)
    ]
    asked = {"platforms": PLATFORMS, "versions": versions, "requirements": requirements}
    return run_ruby(SCRIPT, asked, root)


if __name__ == "__main__":
    print(json.dumps(table(Path(sys.argv[1])), indent=0))
