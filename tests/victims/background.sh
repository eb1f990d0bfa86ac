#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Victim: a background child with all its streams on /dev/null beside a task that writes "line I".
# When there is a file `stop`, the child lists its streams in the file `child`.
(
	for ((i = 0; ; i++)); do
		echo "noise $i"
		sleep 0.01
		[ -e stop ] && break
	done
	me=$BASHPID
	streams=$(readlink "/proc/$me/fd/0" "/proc/$me/fd/1" "/proc/$me/fd/2")
	echo "$streams" >child
) </dev/null >/dev/null 2>&1 &
for ((i = 0; ; i++)); do
	echo "line $i"
	truncate -s "$i" beat.0
	sleep 0.01
	[ -e stop ] && break
done
wait
