/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * cr_trusted(), on a file system made of the input: every directory holds a, b and c, to a depth of
 * three; a byte for each says what it is, whose, and who may write it, and links lead where the
 * words behind those bytes say. It trusts a path exactly where this finds, resolving as the kernel
 * does, that only root can change what it leads to.
 */
#include "harness.h"

#define NODES 40 /* 1 + 3 + 9 + 27 */
#define LINKS 8

struct node {
	enum { MISSING, FOLDER, PROGRAM, DATA, LINK } kind;
	bool theirs, open;
	const char *target;
};
static struct node nodes[NODES];
static bool doubtful; /* something on the way is not root's alone */

static void look(int node)
{
	doubtful = doubtful || nodes[node].theirs || (nodes[node].kind != LINK && nodes[node].open);
}

/* Return the node that a path leads to, or -1 with errno. follow: a link at its end too. */
static int resolve(const char *path, bool follow)
{
	static char rest[1 << 16], next[1 << 16];
	int at = 0, child, links = 0;
	size_t size;
	bool last;

	snprintf(rest, sizeof(rest), "%s", path);
	look(0);
	while (1) {
		char *name = rest + strspn(rest, "/");
		if (rest[0] == '/' && nodes[at].kind != FOLDER) {
			errno = ENOTDIR;
			return -1;
		}
		if (*name == 0)
			return at;
		size = strcspn(name, "/");
		last = name[size] == 0;
		if (nodes[at].kind != FOLDER) {
			errno = ENOTDIR;
			return -1;
		}
		if (size == 1 && name[0] == '.') {
			child = at;
		} else if (size == 2 && memcmp(name, "..", 2) == 0) {
			child = at == 0 ? 0 : (at - 1) / 3;
		} else {
			child = at * 3 + 1 + (name[0] - 'a');
			if (size != 1 || name[0] < 'a' || name[0] > 'c' || child >= NODES ||
			    nodes[child].kind == MISSING) {
				errno = ENOENT;
				return -1;
			}
		}
		look(child);
		if (nodes[child].kind == LINK && !(last && !follow)) {
			if (++links > 40) {
				errno = ELOOP;
				return -1;
			}
			snprintf(next, sizeof(next), "%s%s", nodes[child].target, name + size);
			if (nodes[child].target[0] == '/')
				at = 0;
			memcpy(rest, next, sizeof(rest));
			continue;
		}
		at = child;
		memmove(rest, name + size, strlen(name + size) + 1);
	}
}

static int made_lstat(const char *path, struct stat *st)
{
	int node = resolve(path, false);

	if (node < 0)
		return -1;
	memset(st, 0, sizeof(*st));
	st->st_uid = nodes[node].theirs ? 1001 : 0;
	st->st_mode = (nodes[node].kind == LINK	    ? S_IFLNK | 0777
		       : nodes[node].kind == FOLDER ? S_IFDIR | 0755
						    : S_IFREG | 0755) |
		      (nodes[node].open ? 0020 : 0);
	return 0;
}

static ssize_t made_readlink(const char *path, char *into, size_t room)
{
	int node = resolve(path, false);
	size_t size;

	if (node < 0 || nodes[node].kind != LINK) {
		errno = EINVAL;
		return -1;
	}
	size = strlen(nodes[node].target);
	size = size < room ? size : room;
	memcpy(into, nodes[node].target, size);
	return size;
}

static int made_access(const char *path, int mode)
{
	int node = resolve(path, true);

	(void)mode;
	return node >= 0 && nodes[node].kind == PROGRAM ? 0 : -1;
}

#define lstat made_lstat
#define readlink made_readlink
#define access made_access
#include "plugin.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data + NODES, *end = data + size;
	char *words[LINKS], *path, fault[640];
	bool trusted, wanted;
	int node;

	if (size < NODES)
		return 0;
	path = word(&at, end, 0);
	for (int i = 0; i < LINKS; i++) {
		words[i] = word(&at, end, 0);
		if (words[i][0] == 0) { /* there is no such link */
			free(words[i]);
			words[i] = strdup(".");
		}
	}
	for (int i = 0; i < NODES; i++) {
		nodes[i].kind = i == 0 ? FOLDER : (data[i] & 7) % 5;
		nodes[i].theirs = (data[i] & 24) == 24;
		nodes[i].open = (data[i] & 96) == 96;
		nodes[i].target = words[(data[i] >> 3) % LINKS];
	}
	trusted = __pyx_f_8spank_cr_cr_trusted(path, fault, sizeof(fault));
	doubtful = false;
	node = resolve(path, true);
	wanted = path[0] == '/' && node >= 0 && !doubtful && nodes[node].kind == PROGRAM;
	hold(!trusted || wanted);
	/* It refuses more only where a path has become too long. */
	hold(trusted || !wanted || strstr(fault, strerror(ENAMETOOLONG)) != NULL);
	free(path);
	for (int i = 0; i < LINKS; i++)
		free(words[i]);
	return 0;
}
