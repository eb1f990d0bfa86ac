#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Victim: a pipeline of loops, which fork all the while; its last one checks the count.
# As kinds.py: `ready`, and 20 rounds after `stop` "pass" and exit 7, or what is wrong.
set -o pipefail
number=0
left=20
while ((left > 0)); do
	echo "$number"
	((++number == 5)) && touch ready
	[ -e stop ] && ((left--))
	sleep 0.005
done | sed -u 's/^/n/' | {
	wanted=0
	while read -r word; do
		if [ "$word" != "n$wanted" ]; then
			echo "fail: $word, not n$wanted"
			exit 1
		fi
		((wanted++))
	done
	((wanted > 20))
} || exit 1
echo pass
exit 7
