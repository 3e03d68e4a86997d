"""Regular expressions, JSON, sorting and string building."""

import json
import re
import sys

rounds = int(sys.argv[1])
words = [f"{'abcdefgh'[n % 8] * (n % 5 + 1)}{n * 7919 % 1000}" for n in range(3000)]
total = 0
for turn in range(rounds):
    text = " ".join(words[turn % 7 :])
    found = re.findall(r"([a-d]+)(\d+)", text)
    counts = {}
    for letters, number in found:
        counts.setdefault(letters, []).append(int(number))
    data = json.loads(json.dumps({key: sorted(value) for key, value in counts.items()}, indent=1))
    total += sum(map(sum, data.values())) + len(re.sub(r"[aeiou]", "*", text))
print(total)
