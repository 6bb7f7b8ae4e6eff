{{/* The first part of the names of all objects. */}}
{{- define "aios.name" -}}
{{- if contains "aios" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-aios" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A value as a text. Helm reads numbers of files as floating-point numbers, which it would write as
1e+06 from 1,000,000 on; JSON has all digits. */}}
{{- define "aios.text" -}}
{{- if kindIs "float64" . -}}{{ toJson . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* The labels of all objects. */}}
{{- define "aios.labels" -}}
app.kubernetes.io/name: aios
app.kubernetes.io/part-of: aios
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Labels that select the processes of one kind: (list $ kind). */}}
{{- define "aios.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "aios.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every pod of the chart has: no root, no privileges, no access to Kubernetes. */}}
{{- define "aios.podSecurity" -}}
serviceAccountName: {{ include "aios.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "aios.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* The keys of the Secret as files: (list $ keys). */}}
{{- define "aios.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ (index . 0).Values.secretName }}
    defaultMode: 0440
    items:
      {{- range index . 1 }}
      - { key: {{ . }}, path: {{ . }} }
      {{- end }}
{{- end -}}

{{/*
The Deployment of one kind of process:
(dict "root" $ "component" name "roles" roles "secrets" (keys of the Secret) "replicas" number or null
"options" (environment, resources and perhaps terminationGracePeriodSeconds)).
*/}}
{{- define "aios.deployment" -}}
{{- $root := .root -}}
{{- $variables := dict "database-url" "AIOS_DATABASE_URL_FILE" "broker-url" "AIOS_BROKER_URL_FILE" "key-hash" "AIOS_ACCESS_KEY_HASH_FILE" -}}
{{- $selector := include "aios.selector" (list $root .component) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "aios.name" $root }}-{{ .component }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "aios.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ include "aios.text" .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  strategy:
    rollingUpdate: { maxSurge: 1, maxUnavailable: 0 }
  template:
    metadata:
      labels:
        {{- include "aios.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
      annotations:
        # New settings replace the processes.
        checksum/settings: {{ toYaml $root.Values.settings | sha256sum }}
    spec:
      {{- include "aios.podSecurity" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ include "aios.text" (.options.terminationGracePeriodSeconds | default $root.Values.terminationGracePeriodSeconds) }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: {{ .zoneSpread | default "ScheduleAnyway" }}
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
          matchLabelKeys: [pod-template-hash]
      containers:
        - name: service
          image: {{ include "aios.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          env:
            - { name: AIOS_CONFIG_DIR, value: /etc/aios/config }
            - { name: AIOS_PROCESS_ROLES, value: {{ .roles }} }
            {{- range .secrets }}
            - { name: {{ get $variables . }}, value: /etc/aios/secrets/{{ . }} }
            {{- end }}
            {{- range $name, $value := .options.environment }}
            - { name: {{ $name }}, value: {{ include "aios.text" $value | quote }} }
            {{- end }}
          ports:
            - { name: http, containerPort: 8080 }
          startupProbe:
            httpGet: { path: /health/startup, port: http }
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 60
          livenessProbe:
            httpGet: { path: /health/live, port: http }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: { path: /health/ready, port: http }
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 1
          lifecycle:
            # Done by Kubernetes itself, because the image has no shell: endpoints are removed first.
            preStop: { sleep: { seconds: 2 } }
          resources:
            {{- toYaml .options.resources | nindent 12 }}
          securityContext:
            {{- include "aios.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - { name: config, mountPath: /etc/aios/config, readOnly: true }
            - { name: secrets, mountPath: /etc/aios/secrets, readOnly: true }
      volumes:
        - name: config
          configMap: { name: {{ include "aios.name" $root }}-config }
        {{- include "aios.secretVolume" (list $root .secrets) | nindent 8 }}
{{- end -}}

{{/* Nodes are drained one process of each kind at a time: (list $ kind). */}}
{{- define "aios.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "aios.name" (index . 0) }}-{{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "aios.labels" (index . 0) | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "aios.selector" . | nindent 6 }}
{{- end -}}
